"""Answers callers: rewrites the model name of a request to the version that its route points at and passes vLLM's
answer through, byte for byte, as it comes.

The answer's `model` field is left as vLLM wrote it, `<route>@<version>`: it tells the caller which version answered,
as the header x-loraline-version does, and an answer that is not parsed is not held up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web

from loraline_switchboard.engine import Engine
from loraline_switchboard.metrics import Metrics
from loraline_switchboard.registry import Refusal, Registry, Target

PATHS = ("/v1/chat/completions", "/v1/completions")
"""What callers may reach. All else of vLLM (loading adapters, /invocations, /adapters) stays on loopback."""

MAX_BODY_BYTES = 32 << 20
"""Longest request: a million tokens of text are about 6 MB; images come as base64."""

VERSION_HEADER = "x-loraline-version"

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection, not of the message (RFC 9110, 7.6.1)."""

OWN_REQUEST_HEADERS = HOP_BY_HOP | {"host", "content-length", "content-encoding", "expect"}


class Router:
    """The handlers of the callers' paths."""

    def __init__(self, registry: Registry, engine: Engine, metrics: Metrics) -> None:
        self._registry = registry
        self._engine = engine
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """The paths and their handlers."""
        return [web.get("/v1/models", self.models), *(web.post(path, self.complete) for path in PATHS)]

    async def models(self, _: web.Request) -> web.Response:
        """The base model and the routes that answer, as OpenAI lists models."""
        registry = self._registry
        cards: list[dict[str, Any]] = []
        for name in registry.models():
            version = registry.serving.get(name)
            root = f"{name}@{version}" if version else name
            parent = registry.base_name if version else None
            cards.append(
                {"id": name, "object": "model", "created": 0, "owned_by": "loraline", "root": root, "parent": parent}
            )
        return web.json_response({"object": "list", "data": cards})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """One completion."""
        try:
            body = await request.json(loads=json.loads)
        except ValueError as error:
            return refuse(400, f"the request's body is no JSON: {error}")
        model = body.get("model") if isinstance(body, dict) else None
        if not isinstance(model, str) or not model:
            served = ", ".join(f"`{name}`" for name in self._registry.models())
            return refuse(400, f"the request names no `model`; it serves: {served}")
        target = self._registry.resolve(model)
        if isinstance(target, Refusal):
            known = {route.name for route in self._registry.routes} | {self._registry.base_name}
            self._metrics.count(model if model in known else "", target.status)
            return refuse(target.status, target.message)
        with self._registry.counted(target):
            response = await self._pass_on(request, {**body, "model": target.model}, target)
        self._metrics.count(target.held.route if target.held else self._registry.base_name, response.status)
        return response

    async def _pass_on(self, request: web.Request, body: Mapping[str, Any], target: Target) -> web.StreamResponse:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in OWN_REQUEST_HEADERS]
        response: web.StreamResponse | None = None
        try:
            async with self._engine.session.post(self._engine.url + request.path, json=body, headers=headers) as answer:
                if answer.status == 404:  # it was proved, so vLLM has forgotten it: the worker loads it again
                    return refuse(503, f"vLLM was started again and is loading `{target.model}`; try again", target)
                response = web.StreamResponse(status=answer.status, reason=answer.reason)
                for name, value in answer.headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        response.headers.add(name, value)
                response.headers[VERSION_HEADER] = target.version
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    self._registry.last_token = time.monotonic()
                    await response.write(chunk)
                await response.write_eof()
                return response
        except aiohttp.ClientError as error:
            if response is not None:
                raise  # half an answer: the connection is cut, so that the caller sees that it is not whole
            return refuse(503, f"vLLM does not answer: {error}", target)


def refuse(status: int, message: str, target: Target | None = None) -> web.Response:
    """An error in OpenAI's shape; 503 asks the caller to come again in a second."""
    kind = "NotFoundError" if status == 404 else "BadRequestError" if status < 500 else "ServiceUnavailableError"
    headers = {"Retry-After": "1"} if status == 503 else {}
    if target is not None:
        headers[VERSION_HEADER] = target.version
    error = {"error": {"message": message, "type": kind, "param": "model", "code": status}}
    return web.json_response(error, status=status, headers=headers)
