"""What happens between steps: the watch over the loss, and early stopping with the best weights."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loraline_api.finetune import EarlyStopping
from loraline_trainer import errors
from loraline_trainer.progress import Tracker
from loraline_trainer.training import callbacks


def at(step: int) -> Any:
    """A trainer's state."""
    return SimpleNamespace(global_step=step, epoch=0.5)


def stopped_at(losses: list[float], rules: EarlyStopping) -> tuple[int, float]:
    """The step at which training stops, and the weight that stays; the weight is the number of its step."""
    model = torch.nn.Linear(1, 1, bias=False)
    given = iter(losses)
    stopper = callbacks.Stopper(model, rules, lambda: next(given, losses[-1]))
    control = SimpleNamespace(should_training_stop=False)
    step = 0
    while not control.should_training_stop and step < 100:
        step += 1
        model.weight.data.fill_(step)
        stopper.on_step_end(None, at(step), control)
    stopper.restore_best()
    return step, float(model.weight.detach())


STOPS = [
    pytest.param(
        [3.0, 2.0, 2.5, 2.6], EarlyStopping(patience=2, every_steps=1), 4, 2, id="two evaluations without gain"
    ),
    pytest.param([3.0, 2.9, 2.8], EarlyStopping(patience=1, every_steps=1, min_delta=0.5), 2, 2, id="too small a gain"),
    pytest.param([3.0, 4.0], EarlyStopping(patience=1, every_steps=10), 20, 10, id="every tenth step"),
]


@pytest.mark.parametrize(("losses", "rules", "step", "kept"), STOPS)
def test_training_stops_and_the_best_weights_stay(
    losses: list[float], rules: EarlyStopping, step: int, kept: int
) -> None:
    assert stopped_at(losses, rules) == (step, float(kept))


@pytest.mark.parametrize(("losses", "rules", "step", "kept"), STOPS)
@pytest.mark.parametrize("interrupted_after", [1, 2, 3])
def test_a_checkpoint_carries_early_stopping_over(
    losses: list[float], rules: EarlyStopping, step: int, kept: int, interrupted_after: int
) -> None:
    """The same stop and the same weights, whenever another process takes over."""
    model = torch.nn.Linear(1, 1, bias=False)
    given = iter(losses)
    control = SimpleNamespace(should_training_stop=False)
    stopper = callbacks.Stopper(model, rules, lambda: next(given, losses[-1]))
    reached = 0
    while not control.should_training_stop and reached < 100:
        reached += 1
        model.weight.data.fill_(reached)
        stopper.on_step_end(None, at(reached), control)
        if reached == interrupted_after:
            standing, weights = stopper.standing(), stopper.best_weights
            stopper = callbacks.Stopper(model, rules, lambda: next(given, losses[-1]))
            stopper.go_on_from(standing, weights)
    stopper.restore_best()
    assert (reached, float(model.weight.detach())) == (step, float(kept))


NOT_FINITE = [
    pytest.param({"loss": math.nan, "grad_norm": 1.0}, "the loss is nan at step 7 of 30", id="the loss is no number"),
    pytest.param({"loss": math.inf, "grad_norm": 1.0}, "the loss is inf at step 7 of 30", id="the loss is infinite"),
    pytest.param(
        {"loss": 2.0, "grad_norm": math.nan},
        "the gradient's norm is nan at step 7 of 30",
        id="the gradient is no number",
    ),
]


@pytest.mark.parametrize(("logs", "expected"), NOT_FINITE)
def test_a_number_that_is_not_finite_stops_the_run_with_its_step(logs: dict[str, float], expected: str) -> None:
    watch = callbacks.Watch(Tracker(), 30, 2e-4)
    with pytest.raises(errors.LossNotFinite) as caught:
        watch.on_log(None, at(7), None, {**logs, "learning_rate": 2e-4, "num_tokens": 10})
    assert str(caught.value) == (
        f"{expected}; lower training.learningRate (0.0002), lengthen training.warmupRatio, or look for broken examples"
    )


def test_each_step_reaches_the_tracker_with_its_tokens() -> None:
    tracker = Tracker()
    tracker.begin_training(30)
    watch = callbacks.Watch(tracker, 30, 2e-4)
    watch.on_log(None, at(15), None, {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-4, "num_tokens": 900})
    watch.on_log(None, at(15), None, {"train_runtime": 3.0})
    assert (watch.tokens, watch.last_loss) == (900, 2.0)
    assert (tracker.now.step, tracker.now.percent, tracker.now.loss) == (15, 50, "2")
