"""A plain HTTP door to the real API server: counts requests, and can tell when a write has been done.

Requests and watch streams pass unchanged; nothing is imitated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from loraline_operator import cluster as operator_cluster
from loraline_operator.handlers import settings as kopf_settings

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOP_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding"})


@dataclass
class Door:
    """The door and what passed through it."""

    port: int = 0
    writes: list[str] = field(default_factory=list)
    """`METHOD path` of each write that the API server has answered, those of Leases left out."""
    reads: int = 0
    after_write: Callable[[int], bool] | None = None
    """Called with the number of writes done; True drops the answer, as if the caller were dead by now."""
    _runner: web.AppRunner | None = None
    _session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Starts to listen on a free port of 127.0.0.1."""
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stops, streams included."""
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        login = operator_cluster.login_info(operator_cluster.logger, kopf_settings())
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_HEADERS}
        async with self._session.request(
            request.method,
            login.server.rstrip("/") + request.raw_path,
            data=await request.read() or None,
            skip_auto_headers=("Content-Type",),
            headers=headers | login.as_http_headers(),
            ssl=login.as_ssl_context(),
        ) as answer:
            if self._is_lost(request):
                assert request.transport is not None
                request.transport.close()
            passed = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_HEADERS}
            response = web.StreamResponse(status=answer.status, headers=passed)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    def _is_lost(self, request: web.Request) -> bool:
        if request.method not in WRITES:
            self.reads += 1
            return False
        if "/leases" in request.path:
            return False
        self.writes.append(f"{request.method} {request.path}")
        return self.after_write is not None and self.after_write(len(self.writes))
