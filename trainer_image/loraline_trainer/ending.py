"""Turns the end of an attempt, whatever it was, into an outcome with an exit code."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loraline_api import run
from loraline_api.outcome import MAX_MESSAGE_CHARS, ExitCode, Outcome, parse_outcome
from loraline_trainer import errors
from loraline_trainer.interruption import Interruption
from loraline_trainer.parallel.world import ALONE, World
from loraline_trainer.progress import Tracker
from loraline_trainer.storage.s3 import first_line

if TYPE_CHECKING:
    from loraline_trainer.training.train import Trained

log = logging.getLogger(__name__)

FAILURE_LOOKS = 20
FAILURE_LOOK_S = 0.1
"""A process tells why it ends before it closes its connections; these two seconds are for a slow network."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an attempt did, for people.

    Attributes:
        trained: None when the adapter was there already.
    """

    outcome: Outcome
    trained: Trained | None
    peak_bytes: int


def of(
    recipe: run.Run,
    tracker: Tracker,
    interruption: Interruption,
    work: Callable[[], Report | None],
    world: World = ALONE,
) -> tuple[Outcome, Report | None]:
    """The outcome of the work, and its report when it succeeded."""
    try:
        try:
            report = work()
        finally:
            interruption.end()
    except errors.TrainerError as error:
        outcome = failed(recipe, tracker, error.exit_code, str(error))
    except errors.Interrupted:
        outcome = _interrupted(recipe, tracker, interruption)
    except Exception as error:
        if world.size > 1 and interruption.requested is not None:  # the others went first
            outcome = _interrupted(recipe, tracker, interruption)
        else:
            outcome = _of_another(world) or _unexpected(recipe, tracker, error)
    else:
        if report is None:  # the first process speaks for this one
            return Outcome(run_id=recipe.id, exit_code=ExitCode.SUCCEEDED), None
        return report.outcome, report
    world.tell_failure(outcome.encode().decode())
    return outcome, None


def _interrupted(recipe: run.Run, tracker: Tracker, interruption: Interruption) -> Outcome:
    stage = tracker.now.stage.value
    saved = tracker.now.checkpoint.saved_step if tracker.now.checkpoint is not None else None
    further = "begins anew" if saved is None else f"goes on from step {saved}"
    message = f"stopped by {interruption.requested} in stage {stage}; a further attempt {further}"
    log.warning("%s", message)
    return failed(recipe, tracker, ExitCode.INTERRUPTED, message)


def _of_another(world: World) -> Outcome | None:
    """The outcome of the process whose end ended this one."""
    text = None
    for _ in range(FAILURE_LOOKS if world.size > 1 else 0):
        with contextlib.suppress(Exception):  # the store goes with the first pod
            text = world.told_failure()
        if text is not None:
            break
        time.sleep(FAILURE_LOOK_S)
    return parse_outcome(text) if text is not None else None


def _unexpected(recipe: run.Run, tracker: Tracker, error: Exception) -> Outcome:
    stage = tracker.now.stage.value
    log.error("an unexpected error in stage %s", stage, exc_info=error)
    message = f"{type(error).__name__} in stage {stage}: {first_line(error)}; the log of the trainer has the details"
    return failed(recipe, tracker, ExitCode.UNEXPECTED_ERROR, message)


def failed(recipe: run.Run, tracker: Tracker, code: ExitCode, message: str) -> Outcome:
    """The outcome of an attempt that ended without an adapter."""
    progress = tracker.now
    return Outcome(
        run_id=recipe.id,
        exit_code=code,
        message=message[:MAX_MESSAGE_CHARS],
        steps=progress.step,
        train_loss=progress.loss,
        checkpoint=progress.checkpoint,
    )
