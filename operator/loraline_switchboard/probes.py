"""Answers kubelet, operator and Prometheus: whether the pod lives, is ready, what it holds, and when it is idle.

Reading only: no request here changes where callers' requests go, so none needs a credential. A /drain that waits costs
callers their kept connections, and no more.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
from aiohttp import web

from loraline_api.leaving import DRAIN_LIMIT_S, DRAIN_QUIET_S
from loraline_api.preflight import CARD_PATH
from loraline_switchboard.engine import Engine, EngineBusy, EngineDown
from loraline_switchboard.metrics import Metrics
from loraline_switchboard.registry import Registry
from loraline_switchboard.worker import Worker

TURN_LIMIT_S = 120.0
"""Oldest last turn of a worker that lives: a turn takes milliseconds, a removal of many files seconds."""

DRAIN_LOOK_S = 0.2


class Probes:
    """The handlers of everything that is not for callers."""

    def __init__(self, registry: Registry, worker: Worker, engine: Engine, metrics: Metrics, card: str = "") -> None:
        self._registry = registry
        self._worker = worker
        self._engine = engine
        self._metrics = metrics
        self._card = card

    def routes(self) -> list[web.RouteDef]:
        """The paths and their handlers."""
        return [
            web.get("/livez", self.live),
            web.get("/readyz", self.ready),
            web.get("/health", self.ready),
            web.get("/state", self.state),
            web.get(CARD_PATH, self.base),
            web.get("/drain", self.drain),
            web.get("/metrics", self.metrics),
            web.get("/engine/health", self.engine_health),
            web.get("/engine/metrics", self.engine_metrics),
        ]

    async def live(self, _: web.Request) -> web.Response:
        """200 as long as the worker turns."""
        age_s = time.monotonic() - self._worker.last_turn
        if age_s > TURN_LIMIT_S:
            return web.Response(status=503, text=f"the worker's last turn was {age_s:.0f} s ago\n")
        return web.Response(text="ok\n")

    async def ready(self, _: web.Request) -> web.Response:
        """200 when all that the routes need is proved; otherwise why not."""
        problem = self._registry.why_not_ready()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    async def state(self, _: web.Request) -> web.Response:
        """The SwitchboardState, for the operator."""
        return web.Response(
            text=self._registry.state().model_dump_json(by_alias=True, exclude_none=True),
            content_type="application/json",
        )

    async def base(self, _: web.Request) -> web.Response:
        """The description of the base model, as the operator puts it into a ConfigMap."""
        return web.Response(text=self._card)

    async def drain(self, _: web.Request) -> web.Response:
        """Answers when no request has been in flight for a few seconds, or at its limit. The engine's preStop waits."""
        registry = self._registry
        with registry.draining():
            start = time.monotonic()
            while not registry.engine_sick and (now := time.monotonic()) - start < DRAIN_LIMIT_S:
                if not registry.in_flight and now - max(start, registry.last_request) >= DRAIN_QUIET_S:
                    return web.Response(text="idle\n")
                await asyncio.sleep(DRAIN_LOOK_S)
        why = registry.engine_sick or f"{registry.in_flight} requests after {DRAIN_LIMIT_S} s"
        return web.Response(status=503, text=f"{why}\n")

    async def metrics(self, _: web.Request) -> web.Response:
        """The switchboard's metrics."""
        return web.Response(body=self._metrics.text(), content_type="text/plain")

    async def engine_health(self, _: web.Request) -> web.Response:
        """vLLM's health; one that is too busy to answer is alive, one that gives no tokens or wrong ones is not."""
        if self._registry.engine_sick:
            return web.Response(status=503, text=f"{self._registry.engine_sick}\n")
        try:
            await self._engine.check_health()
        except EngineDown as error:
            return web.Response(status=503, text=f"{error}\n")
        except EngineBusy as error:
            return web.Response(text=f"{error}\n")
        return web.Response(text="ok\n")

    async def engine_metrics(self, _: web.Request) -> web.Response:
        """vLLM's metrics."""
        try:
            async with self._engine.session.get(
                f"{self._engine.url}/metrics", headers={"Accept-Encoding": "identity"}
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type="text/plain")
        except aiohttp.ClientError as error:
            return web.Response(status=503, text=f"vLLM is not reached: {error}\n")
