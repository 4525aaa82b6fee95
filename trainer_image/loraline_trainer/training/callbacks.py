"""What happens between optimizer steps: progress, the watch over the loss, and early stopping."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
import transformers

from loraline_api.finetune import EarlyStopping
from loraline_trainer import errors, numbers
from loraline_trainer.checkpoints.state import Stopping
from loraline_trainer.model import lora
from loraline_trainer.progress import Tracker

log = logging.getLogger(__name__)

LOGGED_STEPS = 10
"""A log line for the first, the last, and every tenth step."""


class Watch(transformers.TrainerCallback):
    """Reports every step to the tracker, and stops the run when loss or gradient are no longer finite."""

    def __init__(
        self,
        tracker: Tracker,
        total_steps: int,
        learning_rate: float,
        *,
        steps_per_epoch: int = 1,
        tokens: int = 0,
        last_loss: float | None = None,
    ) -> None:
        self._tracker = tracker
        self._total_steps = total_steps
        self._learning_rate = learning_rate
        self._steps_per_epoch = steps_per_epoch
        self.last_loss = last_loss
        self.tokens = tokens

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Takes in the numbers of a step; the trainer logs each one."""
        if logs is None or "loss" not in logs:
            return
        loss, gradient = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        if not math.isfinite(loss) or not math.isfinite(gradient):
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {gradient}"
            raise errors.LossNotFinite(
                f"{what} at step {state.global_step} of {self._total_steps}; lower training.learningRate "
                f"({self._learning_rate:g}), lengthen training.warmupRatio, or look for broken examples"
            )
        self.last_loss, self.tokens = loss, int(logs["num_tokens"])
        self._tracker.step(
            step=state.global_step,
            total_steps=self._total_steps,
            epoch=state.global_step / self._steps_per_epoch,  # the trainer knows one epoch only, see `order`
            loss=loss,
            learning_rate=float(logs["learning_rate"]),
            tokens=self.tokens,
        )
        if state.global_step % LOGGED_STEPS in (0, 1) or state.global_step == self._total_steps:
            log.info(
                "step %d of %d: loss %s, gradient %s, learning rate %s",
                state.global_step,
                self._total_steps,
                numbers.text(loss),
                numbers.text(gradient),
                numbers.text(float(logs["learning_rate"])),
            )


class Stopper(transformers.TrainerCallback):
    """Scores the held-out rows now and then, and stops when their loss no longer falls; the best weights stay."""

    def __init__(self, model: Any, rules: EarlyStopping, score: Callable[[], float]) -> None:
        self._model = model
        self._rules = rules
        self._score = score
        self._best = math.inf
        self._worse = 0
        self.best_weights: dict[str, torch.Tensor] = {}

    def standing(self) -> Stopping:
        """Where it stands, for a checkpoint; `best_weights` belong to it."""
        return Stopping(best=self._best if math.isfinite(self._best) else None, worse=self._worse)

    def go_on_from(self, standing: Stopping, best_weights: dict[str, torch.Tensor]) -> None:
        """Takes up where a checkpoint stands."""
        self._best = standing.best if standing.best is not None else math.inf
        self._worse = standing.worse
        self.best_weights = best_weights

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Scores when it is time."""
        if state.global_step % self._rules.every_steps:
            return
        loss = self._score()
        log.info("step %d: held-out loss %s (best %s)", state.global_step, numbers.text(loss), numbers.text(self._best))
        if loss < self._best - self._rules.min_delta:
            self._best, self._worse = loss, 0
            self.best_weights = lora.copied(self._model)
            return
        self._worse += 1
        if self._worse >= self._rules.patience:
            log.info("step %d: stopping early, no improvement in %d evaluations", state.global_step, self._worse)
            control.should_training_stop = True

    def restore_best(self) -> None:
        """Puts the weights of the lowest held-out loss back, unless the last ones are better."""
        if self.best_weights and self._score() > self._best:
            lora.restore(self._model, self.best_weights)
