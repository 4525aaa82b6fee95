"""Loaded versions are proved again from time to time: what a listing does not show is noticed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from loraline_api.routing import VersionPhase
from loraline_switchboard.engine import Engine
from loraline_switchboard.registry import Held
from loraline_switchboard.worker import Worker
from unit.switchboard import folders, test_worker
from unit.switchboard.test_worker import turn_until


@dataclass
class Server:
    """A server in vLLM's place: it lists what was loaded, and answers the probe as it is told."""

    roots: dict[str, str] = field(default_factory=dict)
    logprob: float = -1.0
    asked: int = 0

    async def health(self, _: web.Request) -> web.Response:
        """It lives."""
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        """What is loaded."""
        return web.json_response({"data": [{"id": name, "root": root} for name, root in self.roots.items()]})

    async def load(self, request: web.Request) -> web.Response:
        """Loads an adapter."""
        body = await request.json()
        self.roots[body["lora_name"]] = body["lora_path"]
        return web.Response()

    async def complete(self, request: web.Request) -> web.Response:
        """One completion: the base model's and the adapters' differ."""
        model = (await request.json())["model"]
        self.asked += model != "base"
        logprobs: dict[str, Any] = {"token_logprobs": [-0.5 if model == "base" else self.logprob]}
        return web.json_response({"choices": [{"token_ids": [1], "logprobs": logprobs}]})


@dataclass
class Pod:
    """A pod with one version, and its clock."""

    server: Server
    worker: Worker
    held: Held
    now: list[float]


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    """A pod that has proved a version once."""
    (tmp_path / "store").mkdir()
    folders.write_base(tmp_path / "base")
    version = test_worker.publish(tmp_path, "good")
    server, now = Server(), [0.0]
    app = web.Application()
    app.add_routes(
        [
            web.get("/health", server.health),
            web.get("/v1/models", server.models),
            web.post("/v1/load_lora_adapter", server.load),
            web.post("/v1/completions", server.complete),
        ]
    )
    async with TestServer(app) as running, Engine(str(running.make_url("")).rstrip("/")) as engine:
        worker = test_worker.a_worker(tmp_path, engine, version, clock=lambda: now[0])
        await worker.turn()
        held = test_worker.held(worker, version)
        await turn_until(worker, lambda: held.phase is VersionPhase.PROVED)
        yield Pod(server, worker, held, now)


async def test_a_version_is_not_asked_again_before_its_time(pod: Pod) -> None:
    pod.now[0] += 599
    await turn_until(pod.worker, lambda: True)
    assert pod.server.asked == 1


async def test_one_answer_that_differs_is_asked_for_again(pod: Pod) -> None:
    pod.server.logprob = -3.0
    pod.now[0] += 601
    await turn_until(pod.worker, lambda: pod.held.doubts == 1)
    pod.server.logprob = -1.0
    await turn_until(pod.worker, lambda: pod.held.doubts == 0)
    assert pod.held.is_proved


async def test_a_version_that_answers_as_before_is_proved_again_and_says_when(pod: Pod) -> None:
    first = pod.held.checked_at
    pod.now[0] += 601
    await turn_until(pod.worker, lambda: pod.held.checked_at != first)
    assert pod.held.phase is VersionPhase.PROVED
    assert pod.held.proved_at is not None
    assert pod.worker.registry.engine_sick == ""


@pytest.mark.parametrize("logprob", [-3.0, math.nan], ids=["another answer", "no number"])
async def test_a_vllm_that_answers_otherwise_than_when_it_loaded_has_to_be_started_again(
    pod: Pod, logprob: float
) -> None:
    pod.server.logprob = logprob
    pod.now[0] += 601
    await turn_until(pod.worker, lambda: bool(pod.worker.registry.engine_sick))
    assert pod.worker.registry.engine_sick.startswith(f"vLLM answers the probe of {pod.held.name} otherwise than")
    await turn_until(pod.worker, lambda: True)
    assert pod.worker.registry.why_not_ready() == pod.worker.registry.engine_sick
    assert not pod.held.is_proved
