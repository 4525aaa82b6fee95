"""What is planned for a fine-tune, case by case: actions, phase, reason and message."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from loraline_api.conditions import ConditionType, Reason
from loraline_api.outcome import MetricResult
from loraline_api.progress import Progress, Stage
from loraline_operator import naming
from loraline_operator.actions import Create, Delete, Kind
from loraline_operator.observed_finetune import ObservedFineTune, Stuck
from unit.operator.builders import (
    NOW,
    VERSION,
    FineTuneBuilder,
    a_finetune,
    a_job,
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


def succeeded(builder: FineTuneBuilder) -> FineTuneBuilder:
    """The fine-tune after a first run that published an adapter."""
    job = complete(the_job(builder))
    outcome = an_outcome(job.run_id).model_copy(
        update={"metrics": [MetricResult(name="loss", before="2.6", after="0.1")]}
    )
    return after(after(builder, seen()), seen(job, an_ended_pod(job, 0, outcome), a_snapshot(job.run_id)))


def test_between_the_end_of_its_pod_and_of_its_job_a_run_stays_running() -> None:
    builder = a_finetune()
    job = the_job(builder)
    status = status_of(planned(builder, seen(job, an_ended_pod(job, 0))))
    assert status.phase == "Running"
    assert told(status)[2].endswith("has ended; its Job is about to say how")


def test_a_new_fine_tune_gets_its_snapshot_and_then_its_job() -> None:
    builder = a_finetune()
    run_id, _ = wanted(builder)
    plan = planned(builder, seen())
    assert names(plan.actions) == [
        ("Create", Kind.CONFIG_MAP, f"tickets-{run_id}"),
        ("Create", Kind.JOB, f"tickets-{run_id}-1"),
    ]
    status = status_of(plan)
    assert (status.phase, told(status)[1], status.observed_generation) == ("Pending", "Pending", 1)


def test_all_conditions_are_set_at_the_first_visit() -> None:
    status = status_of(planned(a_finetune(), seen()))
    assert {condition.type: condition.status.value for condition in status.conditions} == {
        "Ready": "False",
        "Running": "False",
        "Evaluated": "Unknown",
        "AdapterPublished": "Unknown",
        "Complete": "False",
        "Failed": "False",
        "Reconciling": "True",
    }


def test_a_crash_after_the_job_was_created_adopts_the_job() -> None:
    builder = a_finetune()
    job = the_job(builder)
    plan = planned(builder, seen(job, a_snapshot(job.run_id)))
    assert (plan.actions, status_of(plan).run.job_name) == ((), job.name)  # type: ignore[union-attr]


def test_a_crash_after_the_snapshot_was_created_creates_the_job_only() -> None:
    builder = a_finetune()
    run_id, _ = wanted(builder)
    assert names(planned(builder, seen(a_snapshot(run_id))).actions) == [("Create", Kind.JOB, f"tickets-{run_id}-1")]


def test_a_running_pod_shows_its_progress() -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    progress = Progress(stage=Stage.TRAINING, percent=40, step=10, total_steps=24, loss="0.8", eta_seconds=200)
    observed = ObservedFineTune(jobs=(job,), pods=(a_pod(job),), snapshots=(a_snapshot(job.run_id),), progress=progress)
    plan = planned(builder, observed)
    status = status_of(plan)
    assert status.display is not None
    assert (status.phase, status.display.progress, status.display.loss, status.display.eta) == (
        "Running",
        "40%",
        "0.8",
        "3m20s",
    )
    assert (plan.requeue_after_s, [event.reason for event in plan.events]) == (3.0, ["Running"])


def test_success_publishes_the_adapter_in_the_status() -> None:
    status = succeeded(a_finetune()).object().status
    assert status.adapter is not None
    assert (status.phase, status.adapter.version, status.adapter.rank) == ("Succeeded", VERSION, 16)
    assert told(status) == (
        "True",
        "Succeeded",
        f"adapter {VERSION} lies at s3://adapters/tickets/adapters/{VERSION}",
    )
    flags = {condition.type: condition.status.value for condition in status.conditions}
    assert flags == {
        "Ready": "True",
        "Running": "False",
        "Evaluated": "True",
        "AdapterPublished": "True",
        "Complete": "True",
        "Failed": "False",
    }


def test_an_edit_deletes_the_old_job_and_waits_for_its_pods() -> None:
    builder = after(a_finetune(), seen())
    old = the_job(builder)
    edited = builder.with_rank(8)
    both = planned(edited, seen(old, a_pod(old), a_snapshot(old.run_id)))
    pod_left = planned(edited, seen(a_pod(old, is_deleting=True), a_snapshot(old.run_id)))
    none_left = planned(edited, seen(a_snapshot(old.run_id)))
    new_id, _ = wanted(edited)
    assert both.actions == (Delete(both.actions[0].ref, old.uid),)
    assert (pod_left.actions, told(status_of(pod_left))[2]) == (
        (),
        f"run {new_id} starts when pod {old.name}-x7k2p has ended",
    )
    assert [name for _, _, name in names(none_left.actions)] == [f"tickets-{new_id}", f"tickets-{new_id}-1"]


def test_going_back_finds_the_earlier_adapter_and_trains_nothing() -> None:
    first = succeeded(a_finetune())
    version = first.object().status.adapter
    edited = first.with_rank(8)
    new = complete(the_job(edited))
    other = an_outcome(new.run_id).model_copy(update={"version": "0123456789ab", "uri": "s3://adapters/other"})
    edited = after(after(edited, seen()), seen(new, an_ended_pod(new, 0, other)))
    back = planned(edited.with_rank(16), seen(new))
    status = status_of(back)
    assert edited.object().status.adapter != version
    assert (names(back.actions), status.phase, status.adapter) == ([], "Succeeded", version)


def test_an_adapter_stays_while_the_next_run_trains_and_when_it_fails() -> None:
    first = succeeded(a_finetune())
    edited = after(first.with_rank(8), seen())
    job = failed(the_job(edited))
    ended = after(edited, seen(job, a_pod(job, "Failed", exit_code=17)))
    adapters = [builder.object().status.adapter for builder in (first, edited, ended)]
    assert (ended.object().status.phase, adapters[1:], adapters[0] is not None) == ("Failed", [adapters[0]] * 2, True)


def test_a_terminal_run_is_not_started_again_because_its_children_are_gone() -> None:
    builder = succeeded(a_finetune())
    plan = planned(builder, seen(), LATER)
    assert (plan.actions, plan.status == builder.object().status, plan.events) == ((), True, ())


def test_the_restart_annotation_forces_a_fresh_run() -> None:
    builder = succeeded(a_finetune()).with_metadata(annotations={naming.RESTART_ANNOTATION: "now"})
    plan = planned(builder, seen(), LATER)
    assert [type(action) for action in plan.actions] == [Create, Create]
    assert status_of(plan).restarted_by == "now"


def test_a_lost_job_is_made_again_under_its_name() -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    plan = planned(builder, seen(a_snapshot(job.run_id)), LATER)
    assert names(plan.actions) == [("Create", Kind.JOB, job.name)]


def test_suspending_deletes_the_job_and_resuming_makes_it_again() -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    held = planned(builder.with_spec("suspend", True), seen(job, a_pod(job), a_snapshot(job.run_id)))
    assert names(held.actions) == [("Delete", Kind.JOB, job.name)]
    suspended = builder.with_spec("suspend", True).with_status(status_of(held))
    assert (told(status_of(held), ConditionType.SUSPENDED)[0], status_of(held).phase) == ("True", "Suspended")
    resumed = planned(suspended.with_spec("suspend", False), seen(a_snapshot(job.run_id)))
    assert names(resumed.actions) == [("Create", Kind.JOB, job.name)]
    assert told(status_of(resumed), ConditionType.SUSPENDED)[:2] == ("False", "Resumed")


def test_a_run_that_ends_while_it_is_suspended_keeps_its_result() -> None:
    builder = after(a_finetune(), seen()).with_spec("suspend", True)
    job = complete(the_job(builder))
    status = status_of(planned(builder, seen(job, an_ended_pod(job, 0, an_outcome(job.run_id)))))
    assert status.phase == "Succeeded"


@pytest.mark.parametrize(
    ("stuck", "words"),
    [
        pytest.param(
            Stuck(Reason.UNSCHEDULABLE, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            "Insufficient nvidia.com/gpu.; change spec.compute, or add nodes that fit",
            id="no node has a GPU",
        ),
        pytest.param(
            Stuck(Reason.IMAGE_PULL_FAILED, 'Back-off pulling image "x"'),
            "check the trainer image of the operator's settings and its pull secrets",
            id="the image is not there",
        ),
        pytest.param(
            Stuck(Reason.CONFIG_MISSING, 'secret "adapter-storage" not found'),
            'secret "adapter-storage" not found; create what is missing',
            id="the Secret is not there",
        ),
    ],
)
def test_a_pod_that_does_not_start_says_why_in_its_own_words(stuck: Stuck, words: str) -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    status = status_of(planned(builder, seen(job, a_pod(job, "Pending", stuck=stuck))))
    assert (told(status)[1], words in told(status)[2]) == (stuck.reason, True)


@pytest.mark.parametrize(
    ("code", "column"),
    [
        pytest.param(40, "Retrying", id="a retry is due"),
        pytest.param(12, "DatasetInvalid", id="no retry mends it"),
    ],
)
def test_the_column_progress_says_what_holds_a_run_up(code: int, column: str) -> None:
    builder = after(a_finetune(), seen())
    job = failed(the_job(builder))
    display = status_of(planned(builder, seen(job, an_ended_pod(job, code)))).display
    assert display is not None
    assert display.progress == column


@pytest.mark.parametrize(
    ("phase", "actions"),
    [
        pytest.param("Pending", ["Delete"], id="a pod that has not started is made anew"),
        pytest.param("Running", [], id="a pod that trains is left alone"),
    ],
)
def test_changed_settings_reach_an_attempt_that_cannot_start(phase: str, actions: list[str]) -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    plan = planned(builder.with_spec("compute.gpus", 0), seen(job, a_pod(job, phase)))
    assert [type(action).__name__ for action in plan.actions] == actions


def test_a_running_attempt_is_looked_at_again_at_its_turn_and_keeps_what_it_told() -> None:
    builder = after(a_finetune(), seen())
    job = the_job(builder)
    progress = Progress(stage=Stage.TRAINING, step=7)
    builder = after(builder, replace(seen(job, a_pod(job)), progress=progress, progress_in_s=250.0))
    plan = planned(builder, replace(seen(job, a_pod(job)), progress=None, progress_in_s=100.0))
    assert (status_of(plan).progress, plan.requeue_after_s) == (progress, 100.0)


def test_a_name_that_belongs_to_something_else_is_said() -> None:
    observed = ObservedFineTune(conflict="Job tickets-1-1")
    status = status_of(planned(a_finetune(), observed))
    assert told(status)[1:] == (
        "NameConflict",
        "Job tickets-1-1 exists and belongs to something else; delete it or rename this fine-tune",
    )


def test_a_job_that_the_api_server_does_not_take_is_said_in_its_words() -> None:
    words = 'Job.batch "tickets-1-1" is invalid: spec.template.spec.nodeSelector: Invalid value: "a/b"'
    plan = planned(a_finetune(), ObservedFineTune(refused=words))
    assert told(status_of(plan))[1:] == (
        "InvalidSpec",
        f"a child of this fine-tune is refused: {words}; mend the spec",
    )
    assert (plan.actions, plan.requeue_after_s) == ((), None)


def test_a_job_that_a_quota_does_not_let_in_waits_and_says_the_limit() -> None:
    words = 'jobs.batch "tickets-1-1" is forbidden: exceeded quota: team, requested: count/jobs.batch=1, limited: 0'
    plan = planned(a_finetune(), ObservedFineTune(not_admitted=words))
    assert told(status_of(plan))[1:] == (
        "NotAdmitted",
        f"a child of this fine-tune is not let in: {words}; it is tried again: raise that limit, or free "
        "what counts against it",
    )
    assert (plan.actions, plan.requeue_after_s) == ((), 60)


def test_a_spec_that_does_not_parse_says_field_value_and_limit() -> None:
    status = status_of(planned(a_finetune().with_rank(300), seen()))
    assert told(status)[1:] == (
        "InvalidSpec",
        "spec.adapter.rank is 300: Input should be less than or equal to 256; mend the spec",
    )


def test_finished_jobs_of_all_but_the_last_attempts_are_removed_when_another_starts() -> None:
    builder = after(a_finetune(), seen())
    status = builder.object().status
    assert status.run is not None
    builder = builder.with_status(status.model_copy(update={"run": status.run.model_copy(update={"attempt": 9})}))
    jobs = [failed(the_job(builder, attempt)) for attempt in range(1, 9)]
    plan = planned(builder, seen(*jobs, a_snapshot(jobs[0].run_id)))
    assert [name for verb, _, name in names(plan.actions) if verb == "Delete"] == [job.name for job in jobs[:3]]


def test_the_ttl_removes_jobs_and_snapshots_and_nothing_else() -> None:
    builder = succeeded(a_finetune()).with_spec("ttlSecondsAfterFinished", 60)
    job = complete(the_job(builder))
    children = seen(job, an_ended_pod(job, 0), a_snapshot(job.run_id))
    early, late = (planned(builder, children, NOW + timedelta(seconds=s)) for s in (20, 60))
    assert (early.actions, early.requeue_after_s) == ((), 40)
    assert names(late.actions) == [
        ("Delete", Kind.JOB, job.name),
        ("Delete", Kind.CONFIG_MAP, f"tickets-{job.run_id}"),
    ]
    assert status_of(late).phase == "Succeeded"


def test_a_ttl_of_zero_leaves_a_job_until_its_end_is_in_the_status() -> None:
    builder = after(a_finetune().with_spec("ttlSecondsAfterFinished", 0), seen())
    job = complete(the_job(builder))
    children = seen(job, an_ended_pod(job, 0, an_outcome(job.run_id)), a_snapshot(job.run_id))
    told_now = planned(builder, children)
    told_before = planned(builder.with_status(status_of(told_now)), children)
    assert (told_now.actions, told_now.requeue_after_s) == ((), 0)
    assert [name for _, _, name in names(told_before.actions)] == [job.name, f"tickets-{job.run_id}"]


def test_children_of_runs_that_no_history_holds_are_removed() -> None:
    builder = succeeded(a_finetune())
    plan = planned(builder, seen(a_snapshot("0000000000"), complete(a_job("0000000000", "x"))), LATER)
    assert [name for _, _, name in names(plan.actions)] == ["tickets-0000000000-1", "tickets-0000000000"]
