"""What the operator serves over HTTP: /metrics, /healthz (is the loop turning) and /readyz (does it see its world).

/healthz fails when no resync was even tried for three periods; an unreachable API server fails /readyz only, as a
restart would mend nothing.
"""

from __future__ import annotations

import asyncio
import json

import prometheus_client
from aiohttp import web

from loraline_operator import metrics
from loraline_operator.lease import Lease
from loraline_operator.policy_store import PolicyStore
from loraline_operator.reconcile import Health

MISSED_PERIODS = 3


class Probes:
    """Answers for one process."""

    def __init__(self, health: Health, lease: Lease, policies: PolicyStore, resync_interval_s: float) -> None:
        self._health = health
        self._lease = lease
        self._policies = policies
        self._limit_s = MISSED_PERIODS * resync_interval_s

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        return application

    async def _metrics(self, _: web.Request) -> web.Response:
        body = prometheus_client.generate_latest(metrics.registry)
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    async def _healthz(self, _: web.Request) -> web.Response:
        tried_s = _age(self._health.tried_at)
        is_turning = not self._lease.is_held or tried_s is None or tried_s < self._limit_s
        return self._answer(is_turning, "" if is_turning else f"no resync was tried for {tried_s} s")

    async def _readyz(self, _: web.Request) -> web.Response:
        if not self._lease.is_held:
            return self._answer(True, "stands by: another replica holds the Lease")
        if not self._policies.is_loaded:
            return self._answer(False, self._policies.problem)
        listed_s = _age(self._health.listed_at)
        if listed_s is None:
            return self._answer(False, self._health.problem)
        if listed_s > self._limit_s:
            return self._answer(False, f"the last list of both kinds is {listed_s} s old: {self._health.problem}")
        return self._answer(True, self._policies.problem)

    def _answer(self, is_good: bool, message: str) -> web.Response:
        body = {
            "message": message,
            "leader": self._lease.is_held,
            "resyncTriedSecondsAgo": _age(self._health.tried_at),
            "listedSecondsAgo": _age(self._health.listed_at),
            "eventSecondsAgo": {str(kind): _age(at) for kind, at in sorted(self._health.seen_at.items())},
        }
        return web.Response(
            text=json.dumps(body) + "\n", content_type="application/json", status=200 if is_good else 503
        )


def _age(at: float | None) -> float | None:
    return None if at is None else round(asyncio.get_running_loop().time() - at, 1)
