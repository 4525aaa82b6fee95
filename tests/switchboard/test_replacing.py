"""A pod is replaced under load, as when the server's settings change: the new one is ready first, the old one drains.

Two switchboards stand before one vLLM with the same adapters on their disk, in place of two pods.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from loraline_api.routing import RouteVersion
from switchboard import harness
from switchboard.harness import S3, Switchboard, Vllm, route

CALLERS = 6
NOTICE_S = 1.5
"""Time until proxies have seen that an endpoint is gone: for so long they send requests to a pod that leaves."""


class Service:
    """What a Service is to its callers: the pods that get requests, each caller on kept connections."""

    def __init__(self, *boards: Switchboard) -> None:
        self.boards = list(boards)
        self.answers: list[int] = []
        self.is_over = asyncio.Event()
        self.answered = asyncio.Condition()

    async def call(self, number: int) -> None:
        """One caller."""
        async with aiohttp.ClientSession() as session:
            body = {"model": "tickets", "prompt": f"caller {number}", "max_tokens": 8, "temperature": 0}
            while not self.is_over.is_set():
                board = self.boards[len(self.answers) % len(self.boards)]
                async with session.post(f"{board.url}/v1/completions", json=body) as answer:
                    json.loads(await answer.read())
                    self.answers.append(answer.status)
                async with self.answered:
                    self.answered.notify_all()

    async def more(self, number: int) -> None:
        """Returns after so many further answers."""
        wanted = len(self.answers) + number
        async with asyncio.timeout(harness.START_S), self.answered:
            await self.answered.wait_for(lambda: len(self.answers) >= wanted)


@pytest.fixture
def first(s3: S3, base: Path, adapters: tuple[Path, Path]) -> RouteVersion:
    """A published version."""
    return s3.publish(adapters[0], base)


@pytest.fixture
def another(switchboard: Switchboard, tmp_path: Path, base: Path, s3: S3, vllm: Vllm) -> Callable[[], Switchboard]:
    """Starts a second switchboard with the first one's disk."""
    return lambda: Switchboard(tmp_path / "new", base, s3, vllm, adapters=switchboard.adapters)


async def test_a_pod_that_is_replaced_under_load_loses_no_request(
    switchboard: Switchboard, first: RouteVersion, another: Callable[[], Switchboard]
) -> None:
    await switchboard.serves(route("tickets", first, serving=first))
    service = Service(switchboard)
    callers = [asyncio.create_task(service.call(number)) for number in range(CALLERS)]
    await service.more(10)
    new = another()
    try:
        new.wants(route("tickets", first, serving=first))
        harness.wait_until("the new pod", lambda: harness.listens(new.port), 60)
        await new.serves(route("tickets", first, serving=first))
        service.boards.append(new)
        await service.more(10)
        draining = asyncio.create_task(switchboard.get("/drain"))
        await asyncio.sleep(NOTICE_S)
        service.boards.remove(switchboard)
        assert await draining == (200, "idle\n")
        assert switchboard.program.stop() == 0
        await service.more(10)
        service.is_over.set()
        await asyncio.gather(*callers)
    finally:
        assert new.program.stop() == 0
    assert Counter(service.answers) == {200: len(service.answers)}
