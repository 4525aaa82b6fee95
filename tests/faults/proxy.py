"""The fault proxy: plain HTTP between operator and API server, which sees every request and every watch event.

Requests go to the real API server and nothing is imitated, until the armed strike's point comes: then what the fault
means happens here. Processes are stopped and killed by `play`, which the proxy tells that the point was reached.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import kopf
from aiohttp import web

from faults.plans import AT_EVENTS, Fault, Strike
from loraline_operator import cluster as operator_cluster
from loraline_operator.handlers import settings as kopf_settings

METHODS = {"POST": "post", "PUT": "put", "PATCH": "patch", "DELETE": "delete"}
HOP_HEADERS = frozenset({"host", "connection", "content-length", "transfer-encoding", "content-encoding"})
PATH = re.compile(
    r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)
FROZEN_S = 3.0
DELAY_S = 2.0
OUTAGE_S = {Fault.OUTAGE: 75.0, Fault.LONG_OUTAGE: 900.0}

Struck = Callable[[Strike], Awaitable[None]]


@dataclass
class Trace:
    """What passed: the points of a flow in the order in which they came."""

    writes: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    write_times: list[float] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    watched: set[str] = field(default_factory=set)
    """Kinds of which the operator has opened a watch."""
    up_again_at: float | None = None
    """When the last outage ended, by the event loop's clock."""


class Upstream:
    """The connection to the real API server, as the administrator; one for all proxies of a process."""

    def __init__(self) -> None:
        self.login: kopf.ConnectionInfo = operator_cluster.login_info(operator_cluster.logger, kopf_settings())
        self.tls = self.login.as_ssl_context()
        self.session = aiohttp.ClientSession(
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            skip_auto_headers=("Content-Type", "User-Agent"),
            headers={"Accept-Encoding": "identity"},
        )

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Any:
        """A request as aiohttp's context manager."""
        return self.session.request(
            method,
            self.login.server.rstrip("/") + path,
            data=data,
            headers={**(headers or {}), **self.login.as_http_headers()},
            ssl=self.tls,
        )

    async def get(self, path: str) -> Any:
        """An answer as JSON."""
        async with self.request("GET", path) as answer:
            return await answer.json(content_type=None)

    async def revision(self) -> int:
        """The newest revision of the world."""
        page = await self.get("/api/v1/namespaces?limit=1")
        return int(page["metadata"]["resourceVersion"])


class Proxy:
    """One operator's way to the API server, and the faults on it."""

    def __init__(self, upstream: Upstream, strikes: Sequence[Strike] = (), struck: Struck | None = None) -> None:
        self.trace = Trace()
        self.port = 0
        self._upstream = upstream
        self._armed = {strike.point: strike for strike in strikes}
        self._struck = struck
        self._counts: Counter[str] = Counter()
        self._frozen_at: int | None = None
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._is_down = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.BaseTransport] = set()
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Starts to listen on a free port of 127.0.0.1."""
        application = web.Application(client_max_size=8 << 20)
        application.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stops, streams included."""
        for task in self._tasks:
            task.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        if self._is_down:
            return _reset(request)
        self._transports.add(request.transport)
        try:
            if request.method in METHODS and "/leases" not in request.path:
                return await self._write(request)
            if request.query.get("watch") == "true":
                return await self._watch(request)
            return await self._read(request)
        except (aiohttp.ClientConnectionError, ConnectionResetError):
            return _reset(request)
        finally:
            self._transports.discard(request.transport)

    async def _write(self, request: web.Request) -> web.StreamResponse:
        point = self._numbered(_write_label(request))
        self.trace.writes.append(point)
        strike = self._armed.pop(point, None)
        body = await request.read()
        if strike is not None:
            self.trace.struck.append(str(strike))
            refused = _refusal(request, strike.fault)
            if refused is not None:
                return refused
            if strike.fault is Fault.FROZEN:
                await self._freeze()
        status, headers, answer = await self._forward(request, request.raw_path, body)
        self.trace.write_times.append(asyncio.get_running_loop().time())
        if strike is not None:
            if strike.fault in OUTAGE_S:
                self._go_down(OUTAGE_S[strike.fault])
                return _reset(request)
            if self._struck is not None:
                await self._strike(self._struck, strike)
            if strike.fault is Fault.TIMEOUT_AFTER:
                return _status(504, "Timeout", "the answer was lost on its way")
            if strike.fault in (Fault.RESET_AFTER, Fault.KILL):
                return _reset(request)
        return web.Response(status=status, headers=headers, body=answer)

    async def _strike(self, struck: Struck, strike: Strike) -> None:
        """Lets happen what happens to processes, to its end: a caller that is killed ends this handler, not that."""

        async def strike_it() -> None:
            await struck(strike)

        task = asyncio.create_task(strike_it())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _forward(self, request: web.Request, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_HEADERS}
        headers.pop("Accept-Encoding", None)
        async with self._upstream.request(request.method, path, headers=headers, data=body or None) as answer:
            passed = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_HEADERS}
            return answer.status, passed, await answer.read()

    async def _read(self, request: web.Request) -> web.StreamResponse:
        if self._frozen_at is None or "/leases" in request.path:
            status, headers, answer = await self._forward(request, request.raw_path, await request.read())
            return web.Response(status=status, headers=headers, body=answer)
        return await self._read_old(request, self._frozen_at)

    async def _read_old(self, request: web.Request, revision: int) -> web.StreamResponse:
        """What a read would have shown at that revision; an object is read as a list of one."""
        parts = PATH.match(request.path)
        if parts is None:
            return web.Response(status=404)
        query = {key: value for key, value in request.query.items() if key != "continue"}
        query |= {"resourceVersion": str(revision), "resourceVersionMatch": "Exact"}
        path, name = request.path, parts["name"]
        if name is not None:
            path = path.rsplit("/", 1)[0]
            query["fieldSelector"] = f"metadata.name={name}"
        accept = request.headers.get("Accept", "").replace("PartialObjectMetadata;", "PartialObjectMetadataList;")
        url = path + "?" + "&".join(f"{key}={value}" for key, value in query.items())
        async with self._upstream.request("GET", url, headers={"Accept": accept}) as answer:
            page = await answer.json(content_type=None)
            if name is None or answer.status != 200:
                return web.json_response(page, status=answer.status)
        for item in page["items"] or ():
            kind = page["kind"].removesuffix("List")
            return web.json_response({"apiVersion": page["apiVersion"], "kind": kind} | item)
        return _status(404, "NotFound", f"{parts['plural']} {name} not found")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        parts = PATH.match(request.path)
        assert parts is not None
        headers = {"Accept": request.headers.get("Accept", "application/json")}
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        async with self._upstream.request("GET", request.raw_path, headers=headers) as answer:
            if answer.status != 200:
                return web.Response(status=answer.status, body=await answer.read())
            await response.prepare(request)
            self.trace.watched.add(parts["plural"])
            async for line in lines(answer.content):
                await self._thawed.wait()
                if self._is_down or not await self._pass_event(request, response, parts["plural"], line):
                    return response
        return response

    async def _pass_event(self, request: web.Request, response: web.StreamResponse, plural: str, line: bytes) -> bool:
        """Passes one event on, or does to it what the fault says; False ends the stream."""
        kind = json.loads(line)["type"]
        if kind in ("BOOKMARK", "ERROR"):
            await response.write(line)
            return True
        point = self._numbered(f"{plural}-{kind.lower()}")
        self.trace.events.append(point)
        strike = self._armed.pop(point, None)
        if strike is None or strike.fault not in AT_EVENTS:
            await response.write(line)
            return True
        self.trace.struck.append(str(strike))
        match strike.fault:
            case Fault.DROP:
                return True
            case Fault.REPEAT:
                await response.write(line)
            case Fault.DELAY:
                await asyncio.sleep(DELAY_S)
            case Fault.GONE:
                gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return False
            case Fault.TRUNCATED:
                await response.write(line[: len(line) // 2])
                _reset(request)
                return False
        await response.write(line)
        return True

    def _numbered(self, label: str) -> str:
        self._counts[label] += 1
        return f"{label}-{self._counts[label]}"

    async def _freeze(self) -> None:
        """Reads and watches show the world of now for a while."""
        self._thawed.clear()
        self._frozen_at = await self._upstream.revision()
        self._later(FROZEN_S, self._thaw)

    async def thawed(self) -> None:
        """Waits until reads show the world as it is."""
        await self._thawed.wait()

    def _thaw(self) -> None:
        self._frozen_at = None
        self._thawed.set()

    def _go_down(self, seconds: float) -> None:
        """Nobody listens for a while, and what was open breaks."""
        self._is_down = True
        for transport in tuple(self._transports):
            transport.abort()  # type: ignore[attr-defined]
        self._later(seconds, self._come_up)

    def _come_up(self) -> None:
        self._is_down = False
        self.trace.up_again_at = asyncio.get_running_loop().time()

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            act()

        task = asyncio.create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _write_label(request: web.Request) -> str:
    parts = PATH.match(request.path)
    assert parts is not None, request.path
    return "-".join(part for part in (METHODS[request.method], parts["plural"], parts["sub"]) if part)


def _refusal(request: web.Request, fault: Fault) -> web.StreamResponse | None:
    """The answer in place of the write, for faults that keep it from taking effect."""
    match fault:
        case Fault.CONFLICT:
            reason = "AlreadyExists" if request.method == "POST" else "Conflict"
            return _status(409, reason, "the object has been modified")
        case Fault.THROTTLED:
            return _status(429, "TooManyRequests", "too many requests", {"Retry-After": "1"})
        case Fault.ERROR:
            return _status(500, "InternalError", "etcdserver: leader changed")
        case Fault.TIMEOUT_BEFORE:
            return _status(504, "Timeout", "the request did not complete in time")
        case Fault.RESET_BEFORE:
            return _reset(request)
    return None


def _status(code: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    return web.json_response(body | {"message": message}, status=code, headers=headers)


def _reset(request: web.Request) -> web.StreamResponse:
    """Breaks the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a stream, however long, each with its end."""
    rest = b""
    async for chunk in content.iter_any():
        rest += chunk
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield line + b"\n"
