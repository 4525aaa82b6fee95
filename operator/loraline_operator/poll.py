"""Reads JSON from pods: bounded in time, size and number at once, and seldom from pods that do not answer."""

from __future__ import annotations

import asyncio

import aiohttp

TIMEOUT_S = 2.0
MAX_AT_ONCE = 16
SILENCE_S = 15.0
"""Time for which a pod that did not answer is not asked again, so that dead pods do not hold up the living."""

READ_BYTES = 16 * 1024


class Poller:
    """An HTTP client for pods; an async context manager. It never raises for what a pod does."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._silent_until: dict[str, float] = {}

    async def __aenter__(self) -> Poller:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": "loraline"})
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, ip: str, port: int, path: str, max_bytes: int = READ_BYTES) -> bytes | None:
        """The body of an answer 200, or None: no answer, another status, too large, or silent a moment ago."""
        host = f"[{ip}]" if ":" in ip else ip
        url = f"http://{host}:{port}{path}"
        now = asyncio.get_running_loop().time()
        if self._silent_until.get(url, 0.0) > now:
            return None
        async with self._slots:
            body = await self._read(url, max_bytes)
        if body is None:
            self._silent_until = {key: until for key, until in self._silent_until.items() if until > now}
            self._silent_until[url] = now + SILENCE_S
        return body

    async def _read(self, url: str, max_bytes: int) -> bytes | None:
        assert self._session is not None
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return None
                body = b""
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > max_bytes:
                        return None
                return body
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
