"""The operator to compare with: kopf as its documentation has it, with create and update handlers and a status patch.

It makes the same ConfigMap and Job as ours, by our own thin client, and no more: no retries, no deletion, no progress.
Run it with `python -m bench.operator.baseline PORT`; its probe listens at that port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from typing import Any

import kopf

from loraline_api import run as api_run
from loraline_operator import errors, manifests_training, naming, observed
from loraline_operator.actions import Kind, Ref
from loraline_operator.cluster import Cluster, login_info
from loraline_operator.settings import Settings

SETTINGS = Settings(trainer_image="trainer:1", switchboard_image="operator:1", server_image="vllm:1")
connection = Cluster()


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
    await connection.__aenter__()


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
    for kind, manifest in ((Kind.CONFIG_MAP, snapshot), (Kind.JOB, job)):
        with contextlib.suppress(errors.AlreadyExists):
            await connection.create(Ref(kind, meta.namespace, manifest["metadata"]["name"]), manifest)
    patch.status["observedGeneration"] = meta.generation
    patch.status["phase"] = "Pending"
    patch.status["run"] = {"id": run.id, "jobName": naming.job_name(meta.name, run.id, 1)}


if __name__ == "__main__":
    logging.getLogger("kopf").setLevel(logging.WARNING)
    probe = f"http://127.0.0.1:{sys.argv[1]}/healthz"
    asyncio.run(kopf.operator(clusterwide=True, standalone=True, liveness_endpoint=probe))
    sys.exit(0)
