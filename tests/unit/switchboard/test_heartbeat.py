"""A vLLM that hangs without dying is told from one that is at work, and the probes say so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loraline_api.probe import ProbeAnswer
from loraline_switchboard.engine import Engine
from loraline_switchboard.heartbeat import Heartbeat, HeartbeatPace
from loraline_switchboard.registry import Registry

LIMIT_S = 0.2


class Server:
    """A server in vLLM's place that counts what it is asked for a token, and answers after a while."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.asked = 0

    async def complete(self, _: web.Request) -> web.Response:
        """One completion."""
        self.asked += 1
        await asyncio.sleep(self.wait_s)
        return web.json_response({})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def registry() -> Registry:
    """A pod whose vLLM has been up."""
    answer = ProbeAnswer(token_ids=[1], logprobs=[0.0])
    return Registry(base_name="base", engine_healthy=True, base_answer=answer)


@pytest.fixture
async def heartbeat(server: Server, registry: Registry) -> AsyncIterator[Heartbeat]:
    app = web.Application()
    app.add_routes([web.post("/v1/completions", server.complete)])
    async with TestServer(app) as running, Engine(str(running.make_url("")).rstrip("/")) as engine:
        yield Heartbeat(registry, engine, HeartbeatPace(quiet_s=0.1, limit_s=LIMIT_S))


async def test_a_vllm_that_gives_a_token_is_alive(heartbeat: Heartbeat, registry: Registry, server: Server) -> None:
    await heartbeat.listen()
    assert (server.asked, registry.engine_sick) == (1, "")


async def test_a_vllm_that_gives_none_has_to_be_started_again(
    heartbeat: Heartbeat, registry: Registry, server: Server
) -> None:
    server.wait_s = 10 * LIMIT_S
    await heartbeat.listen()
    assert registry.engine_sick == "vLLM gave no token for 0 s: it is started again"
    assert registry.why_not_ready()
    assert registry.base_answer is None


async def test_a_vllm_at_work_is_not_asked(heartbeat: Heartbeat, registry: Registry, server: Server) -> None:
    registry.last_token = time.monotonic()
    await heartbeat.listen()
    assert server.asked == 0


async def test_a_vllm_whose_answers_flow_while_the_token_waits_is_busy_and_not_sick(
    heartbeat: Heartbeat, registry: Registry, server: Server
) -> None:
    server.wait_s = 10 * LIMIT_S
    listening = asyncio.create_task(heartbeat.listen())
    await asyncio.sleep(LIMIT_S / 2)
    registry.last_token = time.monotonic()
    await listening
    assert registry.engine_sick == ""


async def test_a_vllm_that_is_not_up_yet_is_not_asked(heartbeat: Heartbeat, registry: Registry, server: Server) -> None:
    registry.base_answer = None
    await heartbeat.listen()
    assert server.asked == 0
