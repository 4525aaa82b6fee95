"""Trains the adapter, from its beginning or from a checkpoint, and puts the best weights back.

The loss is the mean over all counted tokens of an optimizer step, however they are laid out in micro-batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from loraline_api.finetune import Training
from loraline_trainer.checkpoints import state as states
from loraline_trainer.checkpoints.finding import Found
from loraline_trainer.checkpoints.state import TrainingState
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.model import lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.parallel.world import ALONE, World
from loraline_trainer.progress import Tracker
from loraline_trainer.training import callbacks, saving
from loraline_trainer.training import trainer as trainers
from loraline_trainer.training.engine_choice import Drive, passes_of
from loraline_trainer.training.engine_steps import OnHost, Reporter
from loraline_trainer.training.plan import Plan
from loraline_trainer.training.saving import Saver
from loraline_trainer.training.trainer import EngineTrainer

NOTHING_DONE = TrainingState(step=0, is_over=False, tokens=0, seconds=0.0, loss=None, micro_batch_size=1)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training did.

    Attributes:
        tokens: tokens trained on, padding not counted.
    """

    steps: int
    loss: float
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> int:
        """Mean speed."""
        return round(self.tokens / max(self.seconds, 1e-9))


def train(
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    training: Training,
    plan: Plan,
    *,
    tracker: Tracker,
    work: Path,
    world: World = ALONE,
    score_held_out: Callable[[], float],
    saving: saving.Saving | None = None,
    resumed: Found | None = None,
    drive: Drive | None = None,
    observers: Sequence[transformers.TrainerCallback] = (),
) -> Trained:
    """Trains the adapter in place.

    Args:
        world: the processes that train together.
        score_held_out: gives the held-out loss of the model as it is, for early stopping.
        saving: saves training as it goes.
        resumed: the checkpoint that training goes on from.
        drive: the engine and its plan; without it PEFT's path trains.
        observers: are called at every step, as the progress is.

    Raises:
        LossNotFinite: the loss or a gradient is NaN or infinite.
        Interrupted: it was asked to stop; what was done is saved.
    """
    before = resumed.state if resumed is not None else NOTHING_DONE
    watch = callbacks.Watch(
        tracker,
        plan.total_steps,
        training.learning_rate,
        steps_per_epoch=plan.steps_per_epoch,
        tokens=before.tokens,
        last_loss=before.loss,
    )
    stopper = None
    if training.early_stopping is not None and prepared.held_out:
        stopper = callbacks.Stopper(model, training.early_stopping, score_held_out)
        if before.stopping is not None and resumed is not None:
            stopper.go_on_from(before.stopping, states.best_weights(resumed.folder))
    tracker.begin_training(plan.total_steps, step=before.step, tokens=before.tokens, loss=before.loss)
    began = time.monotonic()
    steps = before.step
    if before.is_over and resumed is not None:
        lora.load(model, resumed.folder)
    else:
        trainer = trainers.build(model, loaded, prepared, training, plan, work=work, world=world, drive=drive)
        saver = None if saving is None else Saver(saving, trainer, watch, stopper, resumed)
        called: list[transformers.TrainerCallback | None] = [watch, stopper, *observers, saver]
        if isinstance(trainer, EngineTrainer) and drive is not None:
            trainer.passes = passes_of(drive, model, loaded, tracker)
            on_host = OnHost(drive.engine) if drive.may_move_embeddings(training) else None
            called = [stopper, *observers, on_host, Reporter(trainer, watch, saver)]
        steps = trainer.go_on(resumed, called)  # a step is saved after it was judged
    if stopper is not None:
        stopper.restore_best()
    tracker.end_training()
    model.eval()
    return Trained(steps, watch.last_loss or 0.0, watch.tokens, before.seconds + time.monotonic() - began)
