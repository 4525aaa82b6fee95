"""Attempts on several nodes: all pods or none, and an end that is the end of all."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from loraline_api.conditions import Reason
from loraline_operator.actions import Create, Delete, Kind
from loraline_operator.observed_finetune import GangService, Job, Pod, Stuck
from unit.operator.builders import (
    NOW,
    UID,
    VERSION,
    FineTuneBuilder,
    a_finetune,
    a_pod,
    a_snapshot,
    an_outcome,
    complete,
    failed,
    seen,
)
from unit.operator.planning import after, names, planned, status_of, the_job, told, wanted

TWO = a_finetune().with_spec("compute.nodes", 2)
NO_ROOM = Stuck(Reason.UNSCHEDULABLE, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
LATE = NOW + timedelta(seconds=600)


def gang(builder: FineTuneBuilder = TWO, **values: Any) -> Job:
    """The Job of an attempt on two nodes, started now."""
    return replace(the_job(builder), nodes=2, start_time=NOW, **values)


def node(job: Job, index: int, phase: str = "Running", **values: Any) -> Pod:
    """The pod of one node."""
    return replace(a_pod(job, phase, **values), name=f"{job.name}-{index}-abcde", index=index)


def waiting(job: Job, index: int) -> Pod:
    return node(job, index, "Pending", has_node=False, stuck=NO_ROOM)


def a_service(job: Job, **values: Any) -> GangService:
    return GangService(f"nodes-tickets-{job.run_id}", "uid-of-service", UID, job.run_id, **values)


def with_service(*things: Job | Pod, service: GangService | None = None) -> Any:
    job = next(thing for thing in things if isinstance(thing, Job))
    return replace(seen(*things, a_snapshot(job.run_id)), services=(service or a_service(job),))


def test_the_service_comes_before_the_job_that_needs_it() -> None:
    run_id, _ = wanted(TWO)
    assert names(planned(TWO, seen(a_snapshot(run_id))).actions) == [
        ("Create", Kind.SERVICE, f"nodes-tickets-{run_id}"),
        ("Create", Kind.JOB, f"tickets-{run_id}-1"),
    ]


def test_one_node_needs_no_service() -> None:
    assert Kind.SERVICE not in {action.ref.kind for action in planned(a_finetune(), seen()).actions}


def test_a_service_that_is_lost_while_the_attempt_lives_is_made_again() -> None:
    job = gang()
    plan = planned(after(TWO, seen()), seen(job, node(job, 0), node(job, 1), a_snapshot(job.run_id)))
    assert [(type(action), action.ref.kind) for action in plan.actions] == [(Create, Kind.SERVICE)]


def test_a_service_goes_when_its_run_is_over() -> None:
    job = complete(gang())
    result = an_outcome(job.run_id).encode().decode()
    pods = [node(job, i, "Succeeded", exit_code=0, termination_message=result if i == 0 else "") for i in (0, 1)]
    plan = planned(after(TWO, seen()), with_service(job, *pods))
    assert [(type(action), action.ref.kind) for action in plan.actions] == [(Delete, Kind.SERVICE)]
    assert status_of(plan).adapter is not None
    assert status_of(plan).adapter.version == VERSION  # type: ignore[union-attr]


def test_an_attempt_runs_when_all_its_pods_run() -> None:
    job = gang()
    half = status_of(planned(after(TWO, seen()), with_service(job, node(job, 0), waiting(job, 1))))
    whole = status_of(planned(after(TWO, seen()), with_service(job, node(job, 0), node(job, 1))))
    what = f"run {job.run_id}, attempt 1"
    assert (half.phase, told(half)[1:]) == (
        "Pending",
        (
            "Unschedulable",
            f"{what}: 1 of 2 pods run; pod {job.name}-1-abcde: {NO_ROOM.message}; change spec.compute, or add nodes "
            "that fit",
        ),
    )
    assert (whole.phase, told(whole)[2]) == ("Running", f"{what} runs in 2 pods, of Job {job.name}")


def test_a_pod_that_is_done_before_the_first_one_publishes_leaves_the_attempt_running() -> None:
    job = gang()
    pods = node(job, 0), node(job, 1, "Succeeded", exit_code=0)
    assert status_of(planned(after(TWO, seen()), with_service(job, *pods), LATE)).phase == "Running"


def test_an_attempt_that_is_not_placed_in_time_gives_its_nodes_back_and_says_who_waited_for_what() -> None:
    job = gang()
    observed = with_service(job, node(job, 0), waiting(job, 1))
    builder = after(TWO, seen())
    early, late = (planned(builder, observed, LATE - timedelta(seconds=s)) for s in (1, 0))
    status = status_of(late)
    assert (early.actions, early.requeue_after_s) == ((), 1)
    assert names(late.actions) == [("Delete", Kind.SERVICE, a_service(job).name), ("Delete", Kind.JOB, job.name)]
    assert status.run is not None
    assert status.run.retry_time is not None
    assert (status.run.attempt, status.run.failures) == (2, 0)
    assert told(status)[1:] == (
        "GangTimeout",
        f"run {job.run_id}, attempt 1 gave its nodes back: after 600 s 1 of 2 pods had one, and {job.name}-1-abcde "
        f"waited: {NO_ROOM.message}; attempt 2 starts at {status.run.retry_time:%H:%M:%S} UTC",
    )


def test_the_time_to_the_next_attempt_grows_and_differs_from_fine_tune_to_fine_tune() -> None:
    def delays(uid: str) -> list[float]:
        found, builder, now = [], after(TWO.with_metadata(uid=uid), seen()), NOW
        for attempt in range(1, 5):
            job = replace(gang(), name=f"tickets-{gang().run_id}-{attempt}", attempt=attempt, owner_uid=uid)
            job = replace(job, start_time=now)
            now += timedelta(seconds=600)
            builder = after(builder, with_service(job, waiting(job, 0)), now)
            run = builder.object().status.run
            assert run is not None
            assert run.retry_time is not None
            found.append((run.retry_time - now).total_seconds())
            now = run.retry_time
            builder = after(builder, seen(a_snapshot(job.run_id)), now)
        return found

    one, other = delays("one"), delays("other")
    assert all(10 * 2**n <= delay <= 20 * 2**n for n, delay in enumerate(one))
    assert all(mine != theirs for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param((gang(queue="gpus"), waiting(gang(), 1)), id="Kueue, which lets in only what fits"),
        pytest.param((gang(), node(gang(), 0), node(gang(), 1, "Pending")), id="pods that pull their image"),
        pytest.param((gang(), node(gang(), 0), node(gang(), 1, is_deleting=True)), id="a pod that is on its way out"),
        pytest.param(
            (gang(), node(gang(), 0), node(gang(), 1, "Failed", exit_code=1)), id="a pod that has failed already"
        ),
    ],
)
def test_nobody_gives_a_node_back_for(observed: tuple[Job | Pod, ...]) -> None:
    plan = planned(after(TWO, seen()), with_service(*observed), LATE)
    assert [action for action in plan.actions if isinstance(action, Delete)] == []


@pytest.mark.parametrize(
    ("first", "second", "end", "reason", "counted"),
    [
        pytest.param({"exit_code": 1}, {"exit_code": 12}, "PodFailurePolicy", "DatasetInvalid", 1, id="no retry mends"),
        pytest.param({"exit_code": 41}, {"exit_code": 40}, None, "StorageUnavailable", 1, id="one was stopped"),
        pytest.param({"exit_code": 1}, {"exit_code": 41, "is_disrupted": True}, None, "Interrupted", 0, id="a drain"),
        pytest.param({"exit_code": 1}, {"exit_code": 255, "is_lost": True}, None, "Interrupted", 0, id="a node down"),
        pytest.param({"exit_code": 1}, None, "PodFailurePolicy", "Interrupted", 0, id="a drained pod that is gone"),
        pytest.param({"exit_code": 41}, {"exit_code": 41}, None, "Interrupted", 0, id="both lost each other"),
        pytest.param(
            {"exit_code": 41}, {"exit_code": 137, "is_out_of_memory": True}, None, "OutOfMemory", 1, id="out of memory"
        ),
        pytest.param({"exit_code": 0}, {"exit_code": 40}, None, "StorageUnavailable", 1, id="the first was done"),
    ],
)  # fmt: skip
def test_the_end_of_several_nodes_is_that_of_the_pod_that_ended_it(
    first: dict[str, Any], second: dict[str, Any] | None, end: str | None, reason: str, counted: int
) -> None:
    job = failed(gang(), end or "BackoffLimitExceeded")
    pods = [node(job, index, "Failed", **pod) for index, pod in enumerate((first, second)) if pod is not None]
    builder = after(TWO.with_spec("retries", 1), seen())
    status = status_of(planned(builder, with_service(job, *pods)))
    assert status.run is not None
    assert reason in " ".join(told(status))
    assert (status.run.failures, status.phase) == (counted, "Failed" if reason == "DatasetInvalid" else "Pending")


def test_a_silent_node_is_told_also_when_another_pod_has_failed() -> None:
    job = gang()
    first = node(job, 0, is_deleting=True, ends_by=NOW, node="node-1")
    observed = with_service(job, first, node(job, 1, "Failed", exit_code=1))
    early, late = (planned(after(TWO, seen()), observed, NOW + timedelta(seconds=s)) for s in (59, 60))
    assert told(status_of(early))[1:] == (
        "Running",
        f"run {job.run_id}, attempt 1: pod {job.name}-1-abcde has ended; the others are stopped",
    )
    assert told(status_of(late))[1] == "NodeLost"


def test_an_edit_reaches_an_attempt_that_is_not_placed_and_leaves_one_that_trains() -> None:
    job = gang()
    edited = after(TWO, seen()).with_spec("compute.requests", {"cpu": "1"})
    half = planned(edited, with_service(job, node(job, 0), waiting(job, 1)))
    whole = planned(edited, with_service(job, node(job, 0), node(job, 1)))
    assert [type(action) for action in half.actions] == [Delete, Delete]
    assert whole.actions == ()
