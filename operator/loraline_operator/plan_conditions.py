"""The status of a fine-tune in words: conditions by phase, the printed columns, and events for what changed.

Which phase and reason hold is decided in `plan_finetune`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from loraline_api import conditions as api_conditions
from loraline_api.conditions import Conditions, ConditionStatus, ConditionType, Reason
from loraline_api.finetune_status import Display, LoraFineTuneStatus
from loraline_api.progress import Progress, Stage
from loraline_operator.actions import Event

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN


class Phase(StrEnum):
    """Phases, for people."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    DELETING = "Deleting"


UNTRUE = {
    ConditionType.RUNNING: "no pod of the run is running",
    ConditionType.EVALUATED: "the run has no evaluation",
    ConditionType.ADAPTER_PUBLISHED: "the run has published no adapter",
    ConditionType.COMPLETE: "the run has not succeeded",
    ConditionType.FAILED: "the run has not failed",
}
"""What a condition says while it is not true; Ready says why."""

MAX_MESSAGE_CHARS = 2000

QUIET_REASONS = frozenset({Reason.PENDING})
"""Reasons that are no news: they get no event."""

GOOD_REASONS = frozenset(
    {
        Reason.RUNNING,
        Reason.SUCCEEDED,
        Reason.SUSPENDED,
        Reason.RESUMED,
        Reason.QUEUED,
        Reason.PREEMPTED,
        Reason.WAITING_FOR_GPUS,
        Reason.DELETING,
    }
)


def conditions(
    status: LoraFineTuneStatus,
    phase: Phase,
    reason: Reason,
    message: str,
    *,
    is_stalled: bool,
    now: datetime,
    generation: int,
) -> Conditions:
    """All conditions of a fine-tune in this phase; `status` brings the old ones and what the run has measured."""
    message = message[:MAX_MESSAGE_CHARS]
    is_over = phase in (Phase.SUCCEEDED, Phase.FAILED)
    wanted = {
        ConditionType.READY: _truth(phase is Phase.SUCCEEDED),
        ConditionType.RUNNING: _truth(phase is Phase.RUNNING),
        ConditionType.EVALUATED: _truth(bool(status.evaluation)) if is_over else UNKNOWN,
        ConditionType.ADAPTER_PUBLISHED: _truth(phase is Phase.SUCCEEDED) if is_over else UNKNOWN,
        ConditionType.COMPLETE: _truth(phase is Phase.SUCCEEDED),
        ConditionType.FAILED: _truth(phase is Phase.FAILED),
    }
    is_moving = phase in (Phase.PENDING, Phase.RUNNING) and not is_stalled
    result: Conditions = tuple(status.conditions)
    for kind, value in wanted.items():
        words = message if value is TRUE or kind is ConditionType.READY else UNTRUE[kind]
        result = api_conditions.with_condition(result, kind, value, reason, words, now=now, generation=generation)
    result = _with_suspended(result, phase, message, now, generation)
    for kind, holds in ((ConditionType.RECONCILING, is_moving), (ConditionType.STALLED, is_stalled)):
        if holds:
            result = api_conditions.with_condition(result, kind, TRUE, reason, message, now=now, generation=generation)
        else:
            result = api_conditions.without_condition(result, kind)
    return result


def deleting(
    status: LoraFineTuneStatus,
    phase: Phase,
    reason: Reason,
    message: str,
    *,
    is_stalled: bool,
    now: datetime,
    generation: int,
) -> Conditions:
    """The conditions of a fine-tune that somebody deletes: how its run ended stays as it was told."""
    result: Conditions = tuple(status.conditions)
    result = api_conditions.without_condition(result, ConditionType.STALLED)
    for kind, value in ((ConditionType.READY, FALSE), (ConditionType.RECONCILING, TRUE)):
        result = api_conditions.with_condition(result, kind, value, reason, message, now=now, generation=generation)
    return result


def _with_suspended(old: Conditions, phase: Phase, message: str, now: datetime, generation: int) -> Conditions:
    """Suspended appears with the first suspension, and stays as False after it."""
    is_suspended = phase is Phase.SUSPENDED
    if not is_suspended and api_conditions.find(old, ConditionType.SUSPENDED) is None:
        return old
    return api_conditions.with_condition(
        old,
        ConditionType.SUSPENDED,
        _truth(is_suspended),
        Reason.SUSPENDED if is_suspended else Reason.RESUMED,
        message if is_suspended else "no run is held back",
        now=now,
        generation=generation,
    )


def display(phase: Phase, reason: Reason, progress: Progress | None) -> Display | None:
    """The texts of the columns Progress, Loss and ETA; Progress says what holds a run up while nothing goes on."""
    loss = (progress.loss or "") if progress is not None else ""
    if phase is Phase.SUCCEEDED:
        return Display(progress="100%", loss=loss)
    if phase in (Phase.PENDING, Phase.FAILED) and reason is not Reason.PENDING:
        return Display(progress=str(reason), loss=loss)
    if progress is None:
        return None
    is_training = progress.stage is Stage.TRAINING
    eta = _duration(progress.eta_seconds) if phase is Phase.RUNNING and progress.eta_seconds is not None else ""
    return Display(progress=f"{progress.percent}%" if is_training else str(progress.stage), loss=loss, eta=eta)


def events(old: LoraFineTuneStatus, reason: Reason, message: str) -> tuple[Event, ...]:
    """The event that tells the news, when the reason of Ready has changed."""
    before = api_conditions.find(tuple(old.conditions), ConditionType.READY)
    if reason in QUIET_REASONS or (before is not None and before.reason == reason):
        return ()
    return (Event(reason, message[:1000], is_warning=reason not in GOOD_REASONS),)


def _truth(value: bool) -> ConditionStatus:
    return TRUE if value else FALSE


def _duration(seconds: int) -> str:
    """As in 45s, 3m20s or 2h05m."""
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
