"""What the status says of checkpoints: from where an attempt went on, and events for what is news about them.

The trainer finds and stores them; the operator only passes on what it tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from loraline_api.conditions import Reason
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_api.progress import CheckpointProgress, Progress
from loraline_operator.actions import Event

NOTHING = CheckpointProgress()


def clause(progress: Progress | None) -> str:
    """As in `; resumed from step 40 of attempt 1`, to end a sentence with; empty when the attempt began anew."""
    resumed = _of(progress).resumed
    return f"; {resumed}" if resumed else ""


def events(old: LoraFineTuneStatus, new: LoraFineTuneStatus) -> tuple[Event, ...]:
    """Events for what the status has learned of checkpoints."""
    run = new.run
    if run is None:
        return ()
    return tuple(_events(f"run {run.id}, attempt {run.attempt}", _of(old.progress), _of(new.progress)))


def _events(what: str, old: CheckpointProgress, new: CheckpointProgress) -> Iterator[Event]:
    for text in new.damaged:
        if text not in old.damaged:
            message = f"{what}: the checkpoint of {text}; it was skipped, and the next older one is taken instead"
            yield Event(Reason.CHECKPOINT_DAMAGED, message, is_warning=True)
    if new.resumed and new.resumed != old.resumed:
        yield Event(Reason.RESUMED, f"{what} {new.resumed}", is_warning=False)
    if new.problem is not None and new.problem != old.problem:
        yield Event(Reason.CHECKPOINT_UNAVAILABLE, f"{what}: {new.problem}", is_warning=True)


def _of(progress: Progress | None) -> CheckpointProgress:
    return (progress.checkpoint if progress is not None else None) or NOTHING
