"""Conditions follow metav1.Condition."""

from datetime import UTC, datetime, timedelta

from loraline_api import conditions
from loraline_api.conditions import Condition, ConditionStatus, ConditionType, Reason

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ready(
    status: ConditionStatus, message: str, now: datetime, before: tuple[Condition, ...] = ()
) -> tuple[Condition, ...]:
    return conditions.with_condition(
        before, ConditionType.READY, status, Reason.RUNNING, message, now=now, generation=1
    )


def test_a_new_message_keeps_the_transition_time() -> None:
    first = ready(ConditionStatus.FALSE, "step 1", NOON)
    second = ready(ConditionStatus.FALSE, "step 2", NOON + timedelta(minutes=1), first)
    assert [(c.message, c.last_transition_time) for c in second] == [("step 2", NOON)]


def test_a_flipped_status_moves_the_transition_time() -> None:
    later = NOON + timedelta(minutes=1)
    flipped = ready(ConditionStatus.TRUE, "done", later, ready(ConditionStatus.FALSE, "step 1", NOON))
    assert [c.last_transition_time for c in flipped] == [later]
    assert conditions.is_true(flipped, ConditionType.READY)


def test_a_condition_of_another_type_is_left_alone() -> None:
    both = conditions.with_condition(
        ready(ConditionStatus.TRUE, "done", NOON),
        ConditionType.STALLED,
        ConditionStatus.TRUE,
        Reason.INVALID_SPEC,
        "no",
        now=NOON,
        generation=1,
    )
    assert [c.type for c in both] == ["Ready", "Stalled"]
    assert [c.type for c in conditions.without_condition(both, ConditionType.STALLED)] == ["Ready"]
