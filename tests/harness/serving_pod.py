"""Plays the serving pods of an AdapterDeployment where there is no kubelet: their statuses, and their switchboards.

A switchboard here holds and proves at once all that the routing table in the real API server asks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from harness.operator_process import Tenant, eventually
from loraline_api.preflight import CARD_PATH, BaseModelCard, Verdict
from loraline_api.probe import ProbeAnswer
from loraline_api.routing import (
    SWITCHBOARD_PORT,
    RouteState,
    RoutingTable,
    SwitchboardState,
    VersionPhase,
    VersionState,
)
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest

BASE = BaseModelCard(digest="d" * 64, layers=2, shapes={"model.layers.0.self_attn.q_proj": [8, 16]})
ANSWER = ProbeAnswer(token_ids=[1, 2], logprobs=[-1.0, -2.0])


async def table_of(tenant: Tenant, deployment: str) -> RoutingTable | None:
    """The routing table, once it is there."""
    config_map = await tenant.cluster.get(tenant.ref(Kind.CONFIG_MAP, naming.routes_name(deployment)))
    return RoutingTable.model_validate_json(config_map["data"]["routes.json"]) if config_map is not None else None


@asynccontextmanager
async def serving_pod(tenant: Tenant, deployment: str, ip: str) -> AsyncIterator[str]:
    """The first serving pod of a deployment, ready at that address; its name."""

    async def state(_: web.Request) -> web.Response:
        table = await table_of(tenant, deployment)
        assert table is not None
        return web.json_response(text=_state(table).model_dump_json(by_alias=True))

    async def base(_: web.Request) -> web.Response:
        return web.Response(text=BASE.encode())

    application = web.Application()
    application.add_routes([web.get("/state", state), web.get(CARD_PATH, base)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, ip, SWITCHBOARD_PORT).start()
    try:
        pod = await eventually(lambda: _pod(tenant, f"{naming.DEPLOYMENT_LABEL}={deployment}"), "a serving pod")
        ready = [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready}
        await tenant.set_pod_status(pod["metadata"]["name"], status)
        yield pod["metadata"]["name"]
    finally:
        await runner.cleanup()


async def end_check(tenant: Tenant, deployment: str, verdict: Verdict | None = None) -> str:
    """The kubelet's part in the next check of a deployment, as `end_this_check`; the name of the Job."""
    pod = await eventually(lambda: _pod(tenant, f"{naming.CHECK_LABEL}={deployment}"), "the pod of a check")
    await end_this_check(tenant, pod, verdict)
    return str(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"])


async def end_this_check(tenant: Tenant, pod: Manifest, verdict: Verdict | None = None) -> None:
    """The kubelet's part in a check: its pod leaves this verdict, or passes the adapter."""
    arguments = pod["spec"]["containers"][0]["args"]
    version = arguments[arguments.index("--version") + 1]
    message = (verdict or Verdict(version=version)).model_dump_json(by_alias=True)
    times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}
    ended = {"terminated": {"exitCode": 0, "message": message, "reason": "Completed", **times}}
    container = {"name": "preflight", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": ended}
    status: Manifest = {"phase": "Succeeded", "containerStatuses": [container]}
    await tenant.set_pod_status(pod["metadata"]["name"], status)


async def _pod(tenant: Tenant, labels: str) -> Manifest | None:
    """A pod with these labels that has not ended."""
    pods = [item async for item in tenant.cluster.list(Kind.POD, tenant.namespace, labels=labels)]
    return next((pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")), None)


def _state(table: RoutingTable) -> SwitchboardState:
    """What a switchboard tells that holds and serves all of a table."""
    versions = [
        VersionState(
            route=route.name,
            version=item.version,
            phase=VersionPhase.PROVED,
            answer=ANSWER,
            fingerprint=ANSWER.fingerprint,
        )
        for route in table.routes
        for item in route.versions
    ]
    return SwitchboardState(
        table_digest=table.digest,
        ready=True,
        engine_healthy=True,
        base_digest=BASE.digest,
        versions=versions,
        routes=[RouteState(name=route.name, serving=route.serving) for route in table.routes],
    )
