"""What is planned when an attempt ends badly or does not end: retried, ended or waited for, and in which words."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from loraline_api import conditions
from loraline_api.conditions import ConditionType, Reason
from loraline_api.outcome import ExitCode
from loraline_operator.actions import Kind
from loraline_operator.plan_watch import PENDING_INTERVAL_S
from unit.operator.builders import (
    NOW,
    a_finetune,
    a_pod,
    a_snapshot,
    an_ended_pod,
    an_outcome,
    complete,
    failed,
    seen,
)
from unit.operator.planning import after, names, planned, status_of, the_job, told, wanted

LATER = NOW + timedelta(seconds=30)


def test_a_completed_job_without_a_message_is_looked_up_by_another_attempt_that_counts_as_nothing() -> None:
    builder = after(a_finetune().with_spec("retries", 0), seen())
    job = complete(the_job(builder))
    status = status_of(planned(builder, seen(job)))
    assert status.run is not None
    assert (status.run.attempt, status.run.failures, told(status)[1]) == (2, 0, "Retrying")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param(ExitCode.DATASET_INVALID, Reason.DATASET_INVALID, id="a bad dataset"),
        pytest.param(ExitCode.ACCESS_DENIED, Reason.ACCESS_DENIED, id="wrong credentials"),
        pytest.param(ExitCode.EVAL_BELOW_THRESHOLD, Reason.EVAL_BELOW_THRESHOLD, id="a missed gate"),
        pytest.param(ExitCode.LOSS_NOT_FINITE, Reason.LOSS_NOT_FINITE, id="a loss that is NaN"),
        pytest.param(ExitCode.INVALID_SPEC, Reason.INVALID_SPEC, id="a spec that the trainer refuses"),
    ],
)
def test_a_permanent_failure_ends_the_run_with_the_trainers_sentence(code: ExitCode, reason: Reason) -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder), "PodFailurePolicy")
    pod = an_ended_pod(job, code, an_outcome(job.run_id, code, "the sentence of the trainer"))
    plan = planned(builder, seen(job, pod, a_snapshot(job.run_id)))
    status = status_of(plan)
    assert (status.phase, told(status), plan.actions) == (
        "Failed",
        ("False", reason, "the sentence of the trainer"),
        (),
    )
    assert (conditions.is_true(tuple(status.conditions), ConditionType.STALLED), plan.events[0].is_warning) == (
        True,
        True,
    )


@pytest.mark.parametrize(
    ("pod", "reason", "counted"),
    [
        pytest.param({"exit_code": 40}, "StorageUnavailable", 1, id="S3 is down"),
        pytest.param({"exit_code": 1}, "UnexpectedError", 1, id="an exception"),
        pytest.param({"exit_code": 77}, "UnexpectedError", 1, id="an exit code that nobody knows"),
        pytest.param({"exit_code": 137, "is_out_of_memory": True}, "OutOfMemory", 1, id="out of memory"),
        pytest.param({"exit_code": 137}, "Interrupted", 0, id="a kill from outside"),
        pytest.param({"exit_code": 143}, "Interrupted", 0, id="a stop before it listens"),
        pytest.param({"exit_code": 255, "is_lost": True}, "Interrupted", 0, id="a node that went down"),
        pytest.param({"exit_code": 41}, "Interrupted", 0, id="a disruption"),
        pytest.param(None, "Interrupted", 0, id="a pod that is gone"),
    ],
)
def test_a_failure_that_a_retry_can_mend_is_retried_after_ten_seconds(
    pod: dict[str, object] | None, reason: str, counted: int
) -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder))
    pods = [a_pod(job, "Failed", **pod)] if pod is not None else []
    plan = planned(builder, seen(job, *pods))
    status = status_of(plan)
    assert status.run is not None
    assert (status.run.attempt, status.run.failures, status.run.retry_time) == (2, counted, NOW + timedelta(seconds=10))
    assert (told(status)[1], f"ended with {reason}" in told(status)[2], plan.requeue_after_s) == ("Retrying", True, 10)


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        pytest.param(
            {"is_out_of_memory": True, "memory_limit": "2Gi"},
            "was killed at its memory limit, 2Gi (exit code 137); raise spec.compute.requests.memory, and the run goes "
            "on from its newest checkpoint, or lower training.microBatchSize or training.maxSeqLength, which starts a "
            "new run",
            id="at its limit",
        ),
        pytest.param(
            {"is_out_of_memory": True},
            "was killed (exit code 137) as its node had no memory left, and it had no limit of its own; set "
            "spec.compute.requests.memory, by which it gets a node with room, or lower training.microBatchSize or "
            "training.maxSeqLength, which starts a new run",
            id="without a limit",
        ),
        pytest.param(
            {"memory_limit": "2Gi"},
            "was killed (exit code 137); the node may have failed or been drained",
            id="for no reason that is told",
        ),
        pytest.param(
            {},
            "was killed (exit code 137); the node may have failed, been drained or run out of memory, as "
            "spec.compute.requests.memory is not set",
            id="for no reason that is told, without a limit",
        ),
    ],
)
def test_a_kill_is_told_with_the_memory_limit_and_the_way_out(pod: dict[str, object], words: str) -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder))
    ended = a_pod(job, "Failed", exit_code=137, **pod)
    assert f"pod {ended.name} {words}; attempt 2 starts" in told(status_of(planned(builder, seen(job, ended))))[2]


def test_the_second_attempt_starts_when_its_time_has_come_and_not_before() -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder))
    observed = seen(job, a_pod(job, "Failed", exit_code=40), a_snapshot(job.run_id))
    waiting = after(builder, observed)
    early = planned(waiting, observed, NOW + timedelta(seconds=9))
    late = planned(waiting, observed, NOW + timedelta(seconds=10))
    assert (names(early.actions), early.requeue_after_s) == ([], 1)
    assert names(late.actions) == [("Create", Kind.JOB, f"tickets-{job.run_id}-2")]


def test_retries_that_are_used_up_end_the_run() -> None:
    builder = after(a_finetune().with_spec("retries", 1), seen())
    first = failed(the_job(builder))
    observed = seen(first, a_pod(first, "Failed", exit_code=40), a_snapshot(first.run_id))
    builder = after(after(builder, observed), observed, LATER)
    second = failed(the_job(builder, 2))
    status = status_of(planned(builder, seen(first, second, a_pod(second, "Failed", exit_code=40)), LATER))
    assert (status.phase, told(status)[1]) == ("Failed", "BackoffLimitExceeded")
    assert told(status)[2].startswith("2 attempts failed and spec.retries is 1; the last ended with StorageUnavailable")


SILENT: dict[str, Any] = {"is_deleting": True, "ends_by": NOW, "node": "node-1"}


WORDS = (
    "was to end by 12:00:00 UTC and its node node-1 is silent; the run goes on when the node is back, or when you know "
    "that it is off and say so: kubectl delete node node-1"
)


def test_a_pod_whose_node_does_not_tell_of_its_end_is_told_with_the_way_out() -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    pod = a_pod(job, **SILENT)
    observed = seen(job, pod, a_snapshot(job.run_id))
    early, late = (planned(builder, observed, NOW + timedelta(seconds=seconds)) for seconds in (59, 60))
    assert (told(status_of(early))[1], early.requeue_after_s) == ("Pending", 1)
    assert told(status_of(late)) == ("False", "NodeLost", f"run {job.run_id}, attempt 1: pod {pod.name} {WORDS}")
    assert (late.actions, late.events[0].is_warning, late.requeue_after_s) == ((), True, PENDING_INTERVAL_S)


def test_an_edit_waits_for_a_pod_on_a_silent_node_and_says_so() -> None:
    builder = after(a_finetune(), seen())
    old = the_job(builder)
    pod = a_pod(old, **SILENT)
    edited = builder.with_rank(8)
    plan = planned(edited, seen(pod, a_snapshot(old.run_id)), NOW + timedelta(seconds=60))
    assert told(status_of(plan)) == ("False", "NodeLost", f"run {wanted(edited)[0]}: pod {pod.name} {WORDS}")
    assert plan.actions == ()


def test_a_deadline_ends_the_run_without_a_retry() -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder), "DeadlineExceeded")
    status = status_of(planned(builder, seen(job, a_pod(job, "Failed", exit_code=41))))
    assert (status.phase, told(status)[1]) == ("Failed", "DeadlineExceeded")


def test_a_failed_run_stays_failed_until_what_an_attempt_may_change_does() -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder))
    observed = seen(job, a_pod(job, "Failed", exit_code=15), a_snapshot(job.run_id))
    builder = after(builder, observed)
    again = planned(builder, observed, LATER)
    mended = planned(builder.with_spec("output.secretRef", {"name": "better"}), observed, LATER)
    assert (again.actions, again.status == builder.object().status) == ((), True)
    assert names(mended.actions) == [("Create", Kind.JOB, f"tickets-{job.run_id}-2")]


def test_an_attempt_that_ended_before_a_status_told_of_it_was_let_in_all_the_same() -> None:
    builder = after(a_finetune(), seen())
    status = status_of(planned(a_finetune(), seen()))
    assert status.run is not None
    untold = builder.with_status(status.model_copy(update={"run": status.run.model_copy(update={"admitted": None})}))
    ended = status_of(planned(untold, seen(failed(the_job(builder), "BackoffLimitExceeded"))))
    assert ended.run is not None
    assert ended.run.admitted is True


def test_a_deadline_that_is_edited_holds_for_the_attempt_that_runs() -> None:
    builder = after(a_finetune().with_spec("activeDeadlineSeconds", 60), seen())
    job = replace(the_job(builder), deadline_s=60)
    edited = builder.with_spec("activeDeadlineSeconds", 3600)
    (patch,) = planned(edited, seen(job, a_pod(job))).actions
    assert (patch.ref.name, patch.patch) == (job.name, {"spec": {"activeDeadlineSeconds": 3600}})  # type: ignore[union-attr]
    late = failed(replace(job, deadline_s=3600), "DeadlineExceeded")
    ended = status_of(planned(edited, seen(late)))
    assert (ended.phase, "longer than spec.activeDeadlineSeconds is, 3600 s" in told(ended)[2]) == ("Failed", True)
    assert status_of(planned(edited.with_status(ended), seen(late))).phase == "Failed"


def test_interruptions_in_a_row_are_spaced_out_and_one_of_an_attempt_that_lasted_is_not() -> None:
    builder = after(a_finetune(), seen())
    third = failed(the_job(builder, 3))
    status = builder.object().status
    assert status.run is not None
    builder = builder.with_status(status.model_copy(update={"run": status.run.model_copy(update={"attempt": 3})}))
    for lasted, delay in ((5, 40), (600, 10)):
        job = replace(third, start_time=NOW - timedelta(seconds=lasted), ended_at=NOW)
        run = status_of(planned(builder, seen(job, a_pod(job, "Failed", exit_code=41)))).run
        assert run is not None
        assert (run.failures, run.retry_time) == (0, NOW + timedelta(seconds=delay))


def test_the_pod_of_an_earlier_job_of_the_same_name_says_nothing_about_this_one() -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder))
    old = an_ended_pod(job, 12, owner_uid="uid-of-the-deleted-job")
    status = status_of(planned(builder, seen(job, old, a_pod(job, "Failed", exit_code=40))))
    assert "ended with StorageUnavailable" in told(status)[2]
