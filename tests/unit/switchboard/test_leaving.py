"""What callers with kept connections meet at a pod that is about to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from loraline_switchboard import base_model, probes, serve
from loraline_switchboard.engine import Engine
from loraline_switchboard.metrics import Metrics
from loraline_switchboard.probes import Probes
from loraline_switchboard.registry import BASE, Registry, Target
from loraline_switchboard.router import Router
from loraline_switchboard.store import AdapterStore
from loraline_switchboard.worker import Worker
from unit.switchboard import folders

Caller = TestClient[web.Request, web.Application]

REQUESTS = [
    ("GET", "/v1/models", None, 200),
    ("POST", "/v1/completions", {"model": "base"}, 503),
    ("POST", "/v1/completions", {}, 400),
    ("GET", "/elsewhere", None, 404),
]


@pytest.fixture
def registry() -> Registry:
    """A pod whose vLLM is not up."""
    return Registry(base_name="base")


@pytest.fixture
async def caller(tmp_path: Path, registry: Registry) -> AsyncIterator[Caller]:
    """A caller of that pod that keeps its connection."""
    base = base_model.read(folders.write_base(tmp_path / "base"))
    async with Engine("http://127.0.0.1:9") as engine:
        store = AdapterStore(tmp_path, lambda: pytest.fail("nothing is fetched"))
        worker = Worker(registry, engine=engine, store=store, base=base, table_path=tmp_path / "routes.json")
        metrics = Metrics(registry)
        app = serve.application(registry, Router(registry, engine, metrics), Probes(registry, worker, engine, metrics))
        async with TestClient(TestServer(app, handler_cancellation=True)) as client:
            yield client


async def closing(caller: Caller) -> set[bool]:
    """Whether answers of all kinds close their connection."""
    found = set()
    for method, path, body, status in REQUESTS:
        async with caller.request(method, path, json=body) as answer:
            assert answer.status == status
            found.add(answer.headers.get("Connection") == "close")
    return found


async def drains(registry: Registry, number: int) -> None:
    async with asyncio.timeout(60):
        while True:
            if registry.drains == number:
                return
            await asyncio.sleep(0.01)


async def test_connections_are_kept_until_the_pod_stops(caller: Caller, registry: Registry) -> None:
    assert await closing(caller) == {False}
    registry.is_stopping = True
    assert await closing(caller) == {True}


async def test_every_answer_closes_its_connection_for_as_long_as_a_drain_waits(
    caller: Caller,
    registry: Registry,
) -> None:
    drain = asyncio.create_task(caller.get("/drain"))
    await drains(registry, 1)
    assert await closing(caller) == {True}
    drain.cancel()
    await drains(registry, 0)
    assert await closing(caller) == {False}


async def test_a_sick_vllm_fails_its_liveness_and_is_not_waited_for(caller: Caller, registry: Registry) -> None:
    registry.engine_sick = "vLLM gave no token for 300 s: it is started again"
    for path in ("/engine/health", "/drain"):
        answer = await caller.get(path)
        assert (answer.status, await answer.text()) == (503, f"{registry.engine_sick}\n")
    assert (await caller.get("/livez")).status == 200


async def test_a_request_between_two_looks_begins_the_quiet_time_again(
    caller: Caller,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probes, "DRAIN_QUIET_S", 0.4)
    drain = asyncio.create_task(caller.get("/drain"))
    await drains(registry, 1)
    await asyncio.sleep(0.3)
    with registry.counted(Target("base", BASE, None)):
        pass
    ended = time.monotonic()
    answer = await drain
    assert (answer.status, await answer.text()) == (200, "idle\n")
    assert time.monotonic() - ended >= 0.4
