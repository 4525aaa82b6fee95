"""Training itself: an evaluation before it changes nothing, and the layout of batches changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from loraline_api import run
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.data.rendering import IGNORED, TokenRow
from loraline_trainer.evaluation import scoring
from loraline_trainer.model import loading, lora, tokenizer
from loraline_trainer.model.loading import Loaded
from loraline_trainer.progress import Tracker
from loraline_trainer.storage import base_model
from loraline_trainer.training import plan, train
from trainer.builders import SMALL, recipe


def rows(count: int) -> tuple[TokenRow, ...]:
    """Rows of different lengths, all of them counted but their first tokens."""
    made = []
    for number in range(count):
        ids = tuple(20 + (7 * number + position) % 400 for position in range(6 + number % 5))
        labels = (IGNORED, IGNORED, *ids[2:])
        made.append(TokenRow(f"line {number + 1}", ids, labels, 2, len(ids), True))
    return tuple(made)


def loaded_model(base: Path, a_run: run.Run) -> Loaded:
    model = base_model.BaseModel(base, "tiny", None, {})
    return loading.load(a_run, model, tokenizer.load(a_run, model))


def weights_after(base: Path, work: Path, *, score_first: bool = False, **changes: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights after four steps."""
    a_run = recipe("http://s3:9000", training={**SMALL["training"], **changes})
    loaded = loaded_model(base, a_run)
    prepared = Prepared(None, rows(24), rows(8), (), "")  # type: ignore[arg-type]
    if score_first:
        scoring.loss(loaded.model, loaded, prepared.held_out)
    model = lora.attach(a_run, loaded)
    machine = plan.Machine(free_bytes=None, layers=2, hidden=64)
    resolved = plan.resolve(a_run.training, machine, examples=24, longest=10)
    train.train(
        model,
        loaded,
        prepared,
        a_run.training,
        resolved,
        tracker=Tracker(),
        work=work,
        score_held_out=lambda: scoring.loss(model, loaded, prepared.held_out),
    )
    return lora.copied(model)


def difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Relative distance of two adapters' B matrices, which begin at zero."""
    pairs = [(first[name], second[name]) for name in first if "lora_B" in name]
    apart = sum(float((one - other).square().sum()) for one, other in pairs)
    return float((apart / sum(float(one.square().sum()) for one, _ in pairs)) ** 0.5)


def test_scoring_the_base_model_first_changes_nothing(base: Path, tmp_path: Path) -> None:
    """With bitsandbytes' own layer on a CPU with AVX512-BF16, the gradients would be lost."""
    plain = weights_after(base, tmp_path / "plain")
    scored = weights_after(base, tmp_path / "scored", score_first=True)
    assert all(torch.equal(plain[name], scored[name]) for name in plain)


def test_packing_and_micro_batches_give_the_same_adapter_as_padding(base: Path, tmp_path: Path) -> None:
    """Up to the rounding of bfloat16; another order of examples would be 1 apart."""
    packed = weights_after(base, tmp_path / "packed")
    padded = weights_after(base, tmp_path / "padded", packing=False)
    split = weights_after(base, tmp_path / "split", microBatchSize=2)
    other_order = weights_after(base, tmp_path / "other", seed=43)
    assert difference(packed, padded) < 0.1
    assert difference(packed, split) < 0.1
    assert difference(packed, other_order) > 0.3


def test_early_stopping_ends_training_when_the_loss_falls_too_little(base: Path, tmp_path: Path) -> None:
    rules = {"patience": 1, "everySteps": 1, "minDelta": 100.0}
    stopped = weights_after(base, tmp_path, earlyStopping=rules, maxSteps=10)
    assert difference(stopped, weights_after(base, tmp_path, maxSteps=10)) > 0.3


def test_neftune_changes_what_is_learned(base: Path, tmp_path: Path) -> None:
    plain = weights_after(base, tmp_path / "plain")
    assert difference(plain, weights_after(base, tmp_path / "noisy", neftuneNoiseAlpha=5.0)) > 0.01
