"""Kueue owns `suspend` of a Job with its label: waiting and preemption are told, and count as nothing."""

from __future__ import annotations

from dataclasses import replace

from loraline_operator import naming
from loraline_operator.actions import Create, Delete
from loraline_operator.observed_finetune import Job
from unit.operator.builders import FineTuneBuilder, a_finetune, a_job, a_pod, a_snapshot, seen
from unit.operator.planning import after, planned, status_of, the_job, told, wanted

QUEUED = a_finetune().with_metadata(labels={naming.KUEUE_QUEUE_LABEL: "gpus"})


def the_queued_job(builder: FineTuneBuilder = QUEUED, *, waits: bool = True) -> Job:
    return replace(the_job(builder), queue="gpus", is_suspended=waits)


def test_the_job_is_made_suspended_with_the_labels_of_queue_and_priority() -> None:
    labels = {naming.KUEUE_QUEUE_LABEL: "gpus", "kueue.x-k8s.io/priority-class": "high", "team": "support"}
    plan = planned(a_finetune().with_metadata(labels=labels), seen(a_snapshot(wanted(a_finetune())[0])))
    (create,) = [action for action in plan.actions if isinstance(action, Create)]
    made = create.manifest
    assert made["spec"]["suspend"] is True
    assert {key: made["metadata"]["labels"].get(key) for key in labels} == {**labels, "team": None}


def test_a_job_that_waits_is_told_with_its_queue() -> None:
    job = the_queued_job()
    status = status_of(planned(after(QUEUED, seen()), seen(job)))
    assert (status.phase, told(status)[1:]) == (
        "Pending",
        ("Queued", f"run {job.run_id}, attempt 1 waits in queue gpus"),
    )


def test_a_preemption_is_told_in_kueues_words_and_counts_as_nothing() -> None:
    admitted = the_queued_job(waits=False)
    running = after(after(QUEUED, seen()), seen(admitted, a_pod(admitted)))
    stopped = replace(admitted, is_suspended=True)
    observed = replace(seen(stopped, a_pod(stopped, is_deleting=True)), stopped="Preempted to accommodate a workload")
    plan = planned(running, observed)
    status = status_of(plan)
    again = planned(running.with_status(status), observed)
    assert status.run is not None
    assert (status.run.attempt, status.run.failures, plan.actions) == (1, 0, ())
    assert told(status)[1:] == (
        "Preempted",
        f"run {admitted.run_id}, attempt 1 was stopped by Kueue (Preempted to accommodate a workload) and waits in "
        "queue gpus to go on",
    )
    assert [event.is_warning for event in plan.events] == [False]
    assert (again.events, status_of(again) == status) == ((), True)


def test_a_preempted_job_that_is_let_in_again_runs_on_as_the_same_attempt() -> None:
    job = the_queued_job(waits=False)
    preempted = after(after(after(QUEUED, seen()), seen(job, a_pod(job))), seen(replace(job, is_suspended=True)))
    plan = planned(preempted, seen(job, a_pod(job)))
    assert (status_of(plan).phase, plan.actions) == ("Running", ())


def test_what_kueue_adds_to_an_admitted_job_is_left_alone() -> None:
    """Neither its labels nor its pods' node selectors are compared with anything."""
    job = the_queued_job(waits=False)
    assert planned(after(QUEUED, seen()), seen(job, a_pod(job))).actions == ()


def test_suspending_the_fine_tune_deletes_the_job_so_that_its_quota_is_free() -> None:
    job = the_queued_job(waits=False)
    plan = planned(after(QUEUED, seen()).with_spec("suspend", True), seen(job, a_pod(job)))
    assert ([type(action) for action in plan.actions], status_of(plan).phase) == ([Delete], "Suspended")


def test_another_queue_moves_a_job_that_waits_and_leaves_one_that_trains() -> None:
    moved = after(QUEUED, seen()).with_metadata(labels={naming.KUEUE_QUEUE_LABEL: "others"})
    waiting, training = the_queued_job(), the_queued_job(waits=False)
    assert [type(action) for action in planned(moved, seen(waiting)).actions] == [Delete]
    assert planned(moved, seen(training, a_pod(training))).actions == ()


def test_a_job_that_something_else_suspended_is_told_without_a_queue() -> None:
    job = replace(a_job(*wanted(a_finetune())), is_suspended=True)
    status = status_of(planned(after(a_finetune(), seen()), seen(job)))
    assert told(status)[1:] == (
        "Pending",
        f"run {job.run_id}, attempt 1: Job {job.name} is suspended; set its spec.suspend to false, unless a queue will",
    )
