"""How the worker takes versions that cannot be brought up, before any vLLM answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from loraline_api.artifact import MANIFEST
from loraline_api.conditions import Reason
from loraline_api.routing import Route, RouteVersion, RoutingTable, VersionPhase
from loraline_switchboard import base_model
from loraline_switchboard.engine import Engine
from loraline_switchboard.errors import Unavailable
from loraline_switchboard.registry import Held, Registry
from loraline_switchboard.store import AdapterStore
from loraline_switchboard.worker import Worker
from unit.switchboard import folders

NO_ENGINE = "http://127.0.0.1:9"
MISSING = "aaaaaaaaaaaa"


def no_s3() -> NoReturn:
    raise Unavailable(Reason.STORAGE_UNAVAILABLE, "S3 is down")


def publish(tmp_path: Path, name: str, **config: Any) -> str:
    """Puts an adapter with this config into the store and returns its version."""
    adapter = folders.write_adapter(tmp_path / name, **config)
    manifest = folders.manifest_of(adapter, tmp_path / "base")
    (adapter / MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
    adapter.rename(tmp_path / "store" / manifest.version)
    return manifest.version


@pytest.fixture(autouse=True)
def base(tmp_path: Path) -> Path:
    """The base model's folder, and the store's."""
    (tmp_path / "store").mkdir()
    return folders.write_base(tmp_path / "base")


def a_worker(
    tmp_path: Path,
    engine: Engine,
    *versions: str,
    connect: Callable[[], NoReturn] = no_s3,
    clock: Callable[[], float] = lambda: 0.0,
) -> Worker:
    """A worker whose table has one route for each version."""
    routes = [
        Route(name=f"route-{number}", versions=[RouteVersion(version=version, uri=f"s3://bucket/{version}")])
        for number, version in enumerate(versions)
    ]
    (tmp_path / "routes.json").write_text(RoutingTable(max_lora_rank=16, routes=routes).encode())
    return Worker(
        Registry(base_name="base"),
        engine=engine,
        store=AdapterStore(tmp_path / "store", connect),
        base=base_model.read(tmp_path / "base"),
        table_path=tmp_path / "routes.json",
        clock=clock,
    )


def held(worker: Worker, version: str) -> Held:
    return next(item for item in worker.registry.held.values() if item.version == version)


async def turn_until(worker: Worker, holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        await worker.turn()
        while not holds():
            await asyncio.sleep(0.01)
            await worker.turn()


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ({"(": 4}, r"(Pattern)?[Ee]rror\('missing \), unterminated subpattern"),
        ({"q_proj": "high"}, "TypeError"),
        (["q_proj"], "AttributeError"),
    ],
)
async def test_an_adapter_that_cannot_be_judged_is_rejected_and_the_others_go_on(
    tmp_path: Path, pattern: object, error: str
) -> None:
    odd, good = publish(tmp_path, "odd", rank_pattern=pattern), publish(tmp_path, "good")
    async with Engine(NO_ENGINE) as engine:
        worker = a_worker(tmp_path, engine, odd, good)
        await turn_until(worker, lambda: held(worker, odd).phase is VersionPhase.REJECTED)
        await turn_until(worker, lambda: held(worker, good).is_checked)
    assert held(worker, odd).reason is Reason.ADAPTER_INVALID
    assert re.fullmatch(f"adapter {odd} cannot be judged: {error}.*; publish it again", held(worker, odd).message)


async def test_a_version_that_is_tried_again_keeps_its_reason_while_it_downloads(tmp_path: Path) -> None:
    now = 0.0
    seen: list[tuple[VersionPhase, Reason | None, str]] = []

    def connect() -> NoReturn:
        item = held(worker, MISSING)
        seen.append((item.phase, item.reason, item.message))
        no_s3()

    async with Engine(NO_ENGINE) as engine:
        worker = a_worker(tmp_path, engine, MISSING, connect=connect, clock=lambda: now)
        await turn_until(worker, lambda: held(worker, MISSING).failures == 1)
        now = 100.0
        await turn_until(worker, lambda: held(worker, MISSING).failures == 2)
    assert seen == [
        (VersionPhase.DOWNLOADING, None, ""),
        (VersionPhase.RETRYING, Reason.STORAGE_UNAVAILABLE, "S3 is down"),
    ]


async def test_a_version_that_waits_for_vllm_after_a_retry_no_longer_names_the_storage(tmp_path: Path) -> None:
    version = publish(tmp_path, "good")
    async with Engine(NO_ENGINE) as engine:
        worker = a_worker(tmp_path, engine, version)
        await worker.turn()
        item = held(worker, version)
        item.phase, item.reason, item.message = VersionPhase.RETRYING, Reason.STORAGE_UNAVAILABLE, "S3 is down"
        await turn_until(worker, lambda: item.phase is VersionPhase.WAITING)
    assert item.reason is None
    assert item.message.startswith("vLLM is not reached")
