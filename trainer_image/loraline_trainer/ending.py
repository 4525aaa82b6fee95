"""Turns the end of an attempt, whatever it was, into an outcome with an exit code; and SIGTERM into `Interrupted`."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from loraline_api import run
from loraline_api.outcome import MAX_MESSAGE_CHARS, ExitCode, Outcome
from loraline_trainer import errors
from loraline_trainer.chain import Report
from loraline_trainer.progress import Tracker
from loraline_trainer.storage.s3 import first_line

log = logging.getLogger(__name__)


def of(recipe: run.Run, tracker: Tracker, work: Callable[[], Report]) -> tuple[Outcome, Report | None]:
    """The outcome of the work, and its report when it succeeded."""
    try:
        report = work()
    except errors.TrainerError as error:
        return failed(recipe, tracker, error.exit_code, str(error)), None
    except errors.Interrupted:
        log.warning("SIGTERM: stopped at stage %s", tracker.now.stage.value)
        message = f"stopped by SIGTERM in stage {tracker.now.stage.value}; a further attempt begins anew"
        return failed(recipe, tracker, ExitCode.INTERRUPTED, message), None
    except Exception as error:
        log.exception("an unexpected error in stage %s", tracker.now.stage.value)
        message = (
            f"{type(error).__name__} in stage {tracker.now.stage.value}: {first_line(error)}; "
            f"the log of the trainer has the details"
        )
        return failed(recipe, tracker, ExitCode.UNEXPECTED_ERROR, message), None
    return report.outcome, report


def failed(recipe: run.Run, tracker: Tracker, code: ExitCode, message: str) -> Outcome:
    """The outcome of an attempt that ended without an adapter."""
    progress = tracker.now
    return Outcome(
        run_id=recipe.id,
        exit_code=code,
        message=message[:MAX_MESSAGE_CHARS],
        steps=progress.step,
        train_loss=progress.loss,
    )


@contextmanager
def interruptible() -> Iterator[None]:
    """Raises `Interrupted` in the main thread on the first SIGTERM; further ones are ignored, the end is near."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise errors.Interrupted

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
