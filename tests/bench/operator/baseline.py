"""The operator to compare with: kopf as its documentation has it, with create and update handlers and a status patch.

It makes the same ConfigMap and Job as ours, and no more: no retries, no deletion, no progress. It creates them by
aiohttp's client (most operators use larger ones), and runs as kopf does by default, on the loop of asyncio.
Run it with `python -m bench.operator.baseline PORT`; its probe listens at that port.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import aiohttp
import kopf

from loraline_api import run as api_run
from loraline_operator import manifests_training, naming, observed
from loraline_operator.actions import Manifest
from loraline_operator.cluster import login_info
from loraline_operator.settings import Settings

SETTINGS = Settings(trainer_image="trainer:1", switchboard_image="operator:1", server_image="vllm:1")
PATHS = {"ConfigMap": "/api/v1/namespaces/{}/configmaps", "Job": "/apis/batch/v1/namespaces/{}/jobs"}
CONFLICT = 409


class Connection:
    """A connection to the API server, made at the start."""

    def __init__(self, login: kopf.ConnectionInfo) -> None:
        self.server = login.server.rstrip("/")
        self.session = aiohttp.ClientSession(
            headers=login.as_http_headers(), connector=aiohttp.TCPConnector(limit=0, ssl=login.as_ssl_context())
        )

    async def create(self, namespace: str, manifest: Manifest) -> None:
        """Creates an object; one of that name that is there is left as it is."""
        url = self.server + PATHS[manifest["kind"]].format(namespace)
        async with self.session.post(url, json=manifest) as answer:
            if answer.status != CONFLICT:
                answer.raise_for_status()
            await answer.json()


connections: list[Connection] = []


@kopf.on.login()  # type: ignore[arg-type]
def login(logger: logging.Logger, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo:
    """Finds the cluster."""
    return login_info(logger, settings)


@kopf.on.startup()
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Settings as kopf recommends them; nothing posted but what the handlers do."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    connections.append(Connection(login_info(logging.getLogger(__name__), settings)))


@kopf.on.create("lorafinetunes")
@kopf.on.update("lorafinetunes")
async def reconcile(body: kopf.Body, patch: kopf.Patch, **_: Any) -> None:
    """Makes the snapshot and the Job of the run, and tells it in the status."""
    finetune = observed.finetune(dict(body))
    if finetune.spec is None:
        raise kopf.PermanentError(finetune.spec_problem)
    meta = finetune.meta
    run = api_run.resolve(meta.name, meta.namespace, finetune.spec, data_digests={})
    snapshot = manifests_training.snapshot(meta, run, {})
    job = manifests_training.job(
        meta,
        finetune.spec,
        run_id=run.id,
        attempt=1,
        settings_hash=api_run.settings_hash(finetune.spec),
        settings=SETTINGS,
    )
    for manifest in (snapshot, job):
        await connections[0].create(meta.namespace, manifest)
    patch.status["observedGeneration"] = meta.generation
    patch.status["phase"] = "Pending"
    patch.status["run"] = {"id": run.id, "jobName": naming.job_name(meta.name, run.id, 1)}


if __name__ == "__main__":
    logging.getLogger("kopf").setLevel(logging.WARNING)
    probe = f"http://127.0.0.1:{sys.argv[1]}/healthz"
    asyncio.run(kopf.operator(clusterwide=True, standalone=True, liveness_endpoint=probe))
    sys.exit(0)
