"""Saves training between two steps: every so many steps, at its end, and when it is asked to stop.

A checkpoint is a folder as transformers' Trainer reads it with `resume_from_checkpoint`, and beside that what its loop
does not know (`checkpoints.state`). Trainer's own saving is not used: it takes the generators' states as they are when
it is called, and a request to stop comes in the middle of a step, of which nothing is kept. Storing the folder is
`checkpoints.keeping`'s work.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers

from loraline_trainer import errors
from loraline_trainer.checkpoints import state as states
from loraline_trainer.checkpoints.finding import Found
from loraline_trainer.checkpoints.keeping import Keeper
from loraline_trainer.checkpoints.state import TrainingState
from loraline_trainer.evaluation.scores import Scores
from loraline_trainer.interruption import Interruption
from loraline_trainer.model import lora
from loraline_trainer.parallel.world import World
from loraline_trainer.settings import Settings
from loraline_trainer.training import callbacks, random_state

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saving:
    """What saving needs to know of the attempt.

    Attributes:
        keeper: None in processes that only train along.
        base_scores: what the base model measured up to, so that it need not be measured again.
    """

    settings: Settings
    keeper: Keeper | None
    interruption: Interruption
    world: World
    base_scores: Scores | None
    work: Path


class Saver(transformers.TrainerCallback):
    """Saves at the end of a step, and before the next micro-batch when it is asked to stop.

    The last of the callbacks: a step is saved after it was judged.
    """

    def __init__(
        self,
        saving: Saving,
        trainer: Any,
        watch: callbacks.Watch,
        stopper: callbacks.Stopper | None,
        resumed: Found | None,
    ) -> None:
        """Saves a trainer of transformers.

        Args:
            resumed: the checkpoint that it goes on from.
        """
        self._saving = saving
        self._trainer = trainer
        self._watch = watch
        self._stopper = stopper
        self._seconds_before = resumed.state.seconds if resumed is not None else 0.0
        self._began = time.monotonic()
        self._random = random_state.capture()
        # Until the first new step is done there is nothing to save, and the generators are not yet what they were
        self._saved_step = resumed.state.step if resumed is not None else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Remembers the generators as they are before the first step."""
        self._began = time.monotonic()
        self._random = random_state.capture()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **parts: Any) -> None:
        """Saves when it is time; the trainer logs each step when it is wholly done and its loss is known."""
        if logs is not None and "loss" in logs:
            self.end_step(state, control)

    def is_due(self, state: Any, control: Any) -> bool:
        """Whether a step that ends now is saved; its loss must be known then."""
        is_over = bool(control.should_training_stop) or state.global_step >= state.max_steps
        on_time = state.global_step % self._saving.settings.checkpoint.interval == 0
        return is_over or on_time or self._saving.interruption.requested is not None

    def pass_step(self) -> None:
        """Remembers the generators at the end of a step that is not saved."""
        self._random = random_state.capture()

    def end_step(self, state: Any, control: Any) -> None:
        """Saves when it is time."""
        self._random = random_state.capture()
        is_over = bool(control.should_training_stop) or state.global_step >= state.max_steps
        is_asked = self._is_asked_to_stop()
        if is_over or is_asked or state.global_step % self._saving.settings.checkpoint.interval == 0:
            self._save(state, is_over=is_over, must=is_over or is_asked)
        if is_asked:
            self._stop()

    def on_substep_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Saves the end of the last step when it is asked to stop: weights and optimizer are what they were then."""
        if self._is_asked_to_stop():
            self._save(state, is_over=False, must=True)
            self._stop()

    def _is_asked_to_stop(self) -> bool:
        return self._saving.world.any(self._saving.interruption.requested is not None)

    def _stop(self) -> None:
        interruption = self._saving.interruption
        interruption.requested = interruption.requested or "a signal to another process"
        raise errors.Interrupted

    def _save(self, state: Any, *, is_over: bool, must: bool) -> None:
        """Writes the checkpoint of the last step and begins to store it."""
        step = int(state.global_step)
        if step == self._saved_step:
            return
        keeper = self._saving.keeper
        if not must and self._saving.world.any(keeper is not None and keeper.is_busy):
            log.warning("no checkpoint of step %d: the one before is still being stored", step)
            return
        randoms = self._saving.world.gathered(self._random)
        self._saved_step = step
        if keeper is None:
            return
        folder = self._saving.work / "checkpoints" / str(step)
        self._write(folder, state, is_over=is_over)
        random_state.write(randoms, folder)
        keeper.store(folder, step)

    def _write(self, folder: Path, state: Any, *, is_over: bool) -> None:
        lora.save(self._trainer.model, folder)
        torch.save(self._trainer.optimizer.state_dict(), folder / "optimizer.pt")
        torch.save(self._trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")
        scaler = getattr(self._trainer.accelerator, "scaler", None)
        if scaler is not None:
            torch.save(scaler.state_dict(), folder / "scaler.pt")
        state.save_to_json(str(folder / "trainer_state.json"))
        stopping = None
        if self._stopper is not None:
            stopping = self._stopper.standing()
            if self._stopper.best_weights:
                safetensors.torch.save_file(self._stopper.best_weights, folder / states.BEST_WEIGHTS)
        numbers = TrainingState(
            step=int(state.global_step),
            is_over=is_over,
            tokens=self._watch.tokens,
            seconds=self._seconds_before + time.monotonic() - self._began,
            loss=self._watch.last_loss,
            micro_batch_size=self._trainer.args.per_device_train_batch_size,
            base_scores=self._saving.base_scores,
            stopping=stopping,
        )
        states.write(numbers, folder)
