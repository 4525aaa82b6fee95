"""Starts S3 and vLLM once for all tests of the switchboard, and a switchboard for each test."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from switchboard import harness
from switchboard.harness import S3, Switchboard, Vllm
from tools import tiny_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models, data and logs."""
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="session")
def base(folder: Path) -> Path:
    """The tiny base model."""
    return tiny_model.write_base(folder / "base")


@pytest.fixture(scope="session")
def adapters(base: Path, folder: Path) -> tuple[Path, Path]:
    """Two adapters of the base model, in PEFT format."""
    first, second = folder / "first", folder / "second"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a property that will go
        tiny_model.write_adapter(base, first, seed=1)
        tiny_model.write_adapter(base, second, seed=2)
    return first, second


@pytest.fixture(scope="session")
def s3(folder: Path) -> Iterator[S3]:
    """An S3."""
    server = S3(folder / "s3")
    yield server
    server.program.stop()


@pytest.fixture(scope="session")
def vllm(base: Path, folder: Path) -> Iterator[Vllm]:
    """A vLLM; it is up when a switchboard that stands before it is ready."""
    server = Vllm(base, folder / "vllm.log")
    yield server
    server.program.kill()


@pytest.fixture
async def switchboard(
    request: pytest.FixtureRequest, tmp_path: Path, base: Path, s3: S3, vllm: Vllm
) -> AsyncIterator[Switchboard]:
    """A switchboard before that vLLM, with an empty table; an indirect parameter gives it further options."""
    options: tuple[str, ...] = getattr(request, "param", ())
    board = Switchboard(tmp_path / "board", base, s3, vllm, *options)
    board.wants()
    try:
        harness.wait_until("the switchboard", lambda: harness.listens(board.port), 60)
        yield board
    finally:  # two of them before one vLLM would unload each other's adapters
        status = board.program.stop()
    assert status == 0
