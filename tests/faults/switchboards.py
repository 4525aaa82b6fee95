"""Plays the serving pods of a namespace: the kubelet's part, and switchboards at a loopback address for each pod.

A pod follows the routing table in its ConfigMap at once: it proves every version but those that it is to refuse. The
pods that check adapters pass every one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator

from aiohttp import web

from harness.operator_process import PodGone, Tenant
from harness.serving_pod import ANSWER, BASE, end_this_check
from loraline_api.conditions import Reason
from loraline_api.preflight import CARD_PATH
from loraline_api.routing import (
    SWITCHBOARD_PORT,
    TABLE_KEY,
    RouteState,
    RoutingTable,
    SwitchboardState,
    VersionPhase,
    VersionState,
)
from loraline_operator import errors, naming
from loraline_operator.actions import Kind, Manifest

LOOK_S = 0.1
ADDRESSES = (
    f"127.{a}.{b}.{c}"
    for a, b, c in itertools.product(range(20 + os.getpid() % 200, 250), range(1, 250), range(1, 250))
)
"""Others for every process, so that several play on one machine."""

ENDED = ("Succeeded", "Failed")


class Switchboards:
    """The serving pods of one namespace."""

    def __init__(self, tenant: Tenant) -> None:
        self.refused: set[str] = set()
        """Versions that the pods refuse."""
        self._tenant = tenant
        self._serving: dict[str, dict[str, str]] = {}
        self._states: dict[str, SwitchboardState] = {}
        self._runners: dict[str, tuple[str, web.AppRunner]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Plays while the block runs."""
        task = asyncio.create_task(self._play())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for _, runner in self._runners.values():
                await runner.cleanup()

    async def _play(self) -> None:
        while True:
            with contextlib.suppress(errors.ApiError, PodGone, AssertionError):
                await self._look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        pods = await self._pods(naming.DEPLOYMENT_LABEL)
        for pod in pods:
            name = pod["metadata"]["name"]
            if name not in self._runners:
                self._runners[name] = await self._serve(pod)
            await self._follow(pod, self._runners[name][0])
        for name in set(self._runners) - {pod["metadata"]["name"] for pod in pods}:
            await self._runners.pop(name)[1].cleanup()
        for check in await self._pods(naming.CHECK_LABEL):
            if check["status"].get("phase") not in ENDED and "deletionTimestamp" not in check["metadata"]:
                await end_this_check(self._tenant, check)

    async def _pods(self, label: str) -> list[Manifest]:
        tenant = self._tenant
        return [pod async for pod in tenant.cluster.list(Kind.POD, tenant.namespace, labels=label)]

    async def _serve(self, pod: Manifest) -> tuple[str, web.AppRunner]:
        name = pod["metadata"]["name"]

        async def state(_: web.Request) -> web.Response:
            found = self._states.get(name, SwitchboardState())
            return web.Response(text=found.model_dump_json(by_alias=True), content_type="application/json")

        async def base(_: web.Request) -> web.Response:
            return web.Response(text=BASE.encode())

        application = web.Application()
        application.add_routes([web.get("/state", state), web.get(CARD_PATH, base)])
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        address = next(ADDRESSES)
        await web.TCPSite(runner, address, SWITCHBOARD_PORT).start()
        return address, runner

    async def _follow(self, pod: Manifest, address: str) -> None:
        """The kubelet's part: the pod runs, and is Ready when its switchboard says so."""
        name = pod["metadata"]["name"]
        state = await self._state(name, pod["metadata"]["labels"][naming.DEPLOYMENT_LABEL])
        self._states[name] = state
        ready = {"type": "Ready", "status": "True" if state.ready else "False"}
        status = pod["status"]
        conditions = [c for c in status.get("conditions") or () if c["type"] != "Ready"]
        told = next((c["status"] for c in status.get("conditions") or () if c["type"] == "Ready"), None)
        if status.get("podIP") == address and told == ready["status"]:
            return
        wanted = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [*conditions, ready]}
        await self._tenant.set_pod_status(name, wanted)

    async def _state(self, pod: str, deployment: str) -> SwitchboardState:
        """What the pod's switchboard tells."""
        ref = self._tenant.ref(Kind.CONFIG_MAP, naming.routes_name(deployment))
        manifest = await self._tenant.cluster.get(ref)
        if manifest is None:
            return SwitchboardState(engine_healthy=True, base_digest=BASE.digest, message="no table")
        table = RoutingTable.model_validate_json(manifest["data"][TABLE_KEY])
        versions = [self._version(route.name, item.version) for route in table.routes for item in route.versions]
        proved = {(item.route, item.version) for item in versions if item.phase is VersionPhase.PROVED}
        serving = self._serving.setdefault(pod, {})
        for route in table.routes:
            if route.serving is not None and (route.name, route.serving) in proved:
                serving[route.name] = route.serving
        routes = [RouteState(name=route.name, serving=serving.get(route.name)) for route in table.routes]
        return SwitchboardState(
            table_digest=table.digest,
            ready=all(route.serving in (None, serving.get(route.name)) for route in table.routes),
            engine_healthy=True,
            base_digest=BASE.digest,
            versions=versions,
            routes=routes,
        )

    def _version(self, route: str, version: str) -> VersionState:
        if version in self.refused:
            return VersionState(
                route=route,
                version=version,
                phase=VersionPhase.REJECTED,
                reason=Reason.ADAPTER_INVALID,
                message="adapter_model.safetensors holds a NaN",
            )
        return VersionState(
            route=route,
            version=version,
            phase=VersionPhase.PROVED,
            answer=ANSWER,
            fingerprint=ANSWER.fingerprint,
        )
