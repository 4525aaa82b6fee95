"""Training with the engine ends where PEFT's own path ends, and running out of memory on the way changes nothing.

The engine runs on its reference here; its kernels have tests of their own. Everything is float32.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public by its documentation

from loraline_api import run
from loraline_api.finetune import DatasetFormat, MemoryProfile
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.data.rendering import IGNORED, TokenRow
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.policy import LayerPolicy
from loraline_trainer.model import loading, lora, tokenizer
from loraline_trainer.parallel.world import ALONE, World
from loraline_trainer.progress import Tracker
from loraline_trainer.storage.base_model import BaseModel
from loraline_trainer.training.fit import fit
from trainer import builders

TOLERANCE = 1e-4
"""Relative difference of losses after four steps: sums in another order, made larger by AdamW's division."""


@dataclasses.dataclass
class Steps(Tracker):
    """Remembers the steps."""

    def __post_init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.tokens: list[int] = []
        self.plans: list[str] = []

    def step(self, *, loss: float, tokens: int, **others: Any) -> None:
        super().step(loss=loss, tokens=tokens, **others)
        self.losses.append(loss)
        self.tokens.append(tokens)

    def tell_memory_plan(self, text: str) -> None:
        super().tell_memory_plan(text)
        self.plans.append(text)


def rows(count: int = 20) -> tuple[TokenRow, ...]:
    """Rows of different lengths, of which the second half counts."""
    dice = random.Random(5)
    made = []
    for number in range(count):
        ids = tuple(dice.randrange(4, 512) for _ in range(dice.randint(6, 40)))
        half = len(ids) // 2
        made.append(TokenRow(f"row {number}", ids, (IGNORED,) * half + ids[half:], half, len(ids), True))
    return tuple(made)


def trained(
    base: Path,
    work: Path,
    *,
    engine: bool,
    profile: MemoryProfile = MemoryProfile.AUTO,
    adapter: dict[str, Any] = builders.SMALL["adapter"],  # nobody writes to it
    world: World = ALONE,
    **training: Any,
) -> tuple[Steps, dict[str, torch.Tensor]]:
    """The steps and the adapter of a small run."""
    recipe: run.Run = builders.recipe(
        "http://nowhere",
        adapter=adapter,
        quantization={"type": "none", "computeDtype": "float32"},
        training={**builders.SMALL["training"], "microBatchSize": 4, "warmupRatio": 0.25, **training},
    )
    model_of = BaseModel(base, "tiny", None, json.loads((base / "config.json").read_text()))
    loaded = loading.load(recipe, model_of, tokenizer.load(recipe, model_of))
    model = lora.attach(recipe, loaded)
    prepared = Prepared(DatasetFormat.MESSAGES, rows(), (), (), "")
    steps = Steps()
    fit(recipe, model, loaded, prepared, work=work, tracker=steps, profile=profile, engine_wanted=engine, world=world)
    return steps, lora.copied(model)


@pytest.fixture(scope="module")
def by_peft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Steps, dict[str, torch.Tensor]]:
    """The run without the engine."""
    return trained(base, tmp_path_factory.mktemp("peft"), engine=False)


def assert_same(found: tuple[Steps, dict[str, torch.Tensor]], wanted: tuple[Steps, dict[str, torch.Tensor]]) -> None:
    assert found[0].losses == pytest.approx(wanted[0].losses, rel=TOLERANCE)
    assert found[0].tokens == wanted[0].tokens
    for name, value in wanted[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-2, atol=1e-3 * float(value.abs().max()))


def test_the_engine_gives_the_losses_and_the_adapter_of_peft(
    base: Path, tmp_path: Path, by_peft: tuple[Steps, dict[str, torch.Tensor]]
) -> None:
    found = trained(base, tmp_path, engine=True)
    assert by_peft[0].now.engine == "off: it was switched off"
    assert found[0].now.engine == "on"
    assert_same(found, by_peft)


def test_the_profile_changes_the_way_and_not_the_adapter(
    base: Path, tmp_path: Path, by_peft: tuple[Steps, dict[str, torch.Tensor]]
) -> None:
    found = trained(base, tmp_path, engine=True, profile=MemoryProfile.LEAN, microBatchSize=None)
    assert found[0].now.memory_plan is not None
    assert found[0].now.memory_plan.startswith("1 of 2 layers keep their activations, 1 computes them again")
    assert_same(found, by_peft)


def test_two_processes_give_the_losses_and_the_adapter_of_one(
    base: Path, tmp_path: Path, by_peft: tuple[Steps, dict[str, torch.Tensor]]
) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
    }
    command = [sys.executable, "-m", "trainer.engine_process", str(base), str(tmp_path)]
    together = [subprocess.Popen(command, env={**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    assert [process.wait(timeout=300) for process in together] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(by_peft[0].losses, rel=TOLERANCE)
    assert first["tokens"] == second["tokens"] == by_peft[0].tokens
    for name, value in by_peft[1].items():
        torch.testing.assert_close(first["adapter"][name], second["adapter"][name], rtol=0, atol=0)
        torch.testing.assert_close(first["adapter"][name], value, rtol=1e-2, atol=1e-3 * float(value.abs().max()))


def test_a_pass_that_runs_out_of_memory_is_planned_anew_and_taken_again(
    base: Path, tmp_path: Path, by_peft: tuple[Steps, dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second pass of each step fails for as long as a layer keeps its activations and as four rows go at a time."""
    real, passes = Engine.loss, []

    def short_of_memory(self: Engine, ids: torch.Tensor, *others: Any) -> torch.Tensor:
        passes.append(len(ids))
        loss = real(self, ids, *others)
        if len(passes) > 1 and self.policies.count(LayerPolicy.KEEP) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return loss

    monkeypatch.setattr(Engine, "loss", short_of_memory)
    found = trained(base, tmp_path, engine=True)
    assert found[0].plans[0].startswith("2 of 2 layers keep")
    assert found[0].plans[1].endswith("(after running out of memory)")
    assert found[0].now.memory_plan is not None
    assert found[0].now.memory_plan.startswith("1 of 2 layers keep their activations, 1 computes them again")
    assert_same(found, by_peft)


def test_running_out_of_memory_to_the_end_is_an_error(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short_of_memory(self: Engine, *others: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "loss", short_of_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        trained(base, tmp_path, engine=True)


def test_peft_trains_what_the_engine_does_not_know_and_says_why(base: Path, tmp_path: Path) -> None:
    found = trained(base, tmp_path, engine=True, adapter={"rank": 4, "dropout": 0.1})
    assert found[0].now.engine == "off: adapter.dropout is not 0"
    assert len(found[0].losses) == 4


def test_noise_on_the_embeddings_trains_with_the_engine(base: Path, tmp_path: Path) -> None:
    found = trained(base, tmp_path, engine=True, neftuneNoiseAlpha=5)
    assert found[0].now.engine == "on"
    assert len(found[0].losses) == 4
