"""When a fine-tune is judged by the policy: while it waits, and never once it has begun."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from loraline_api.policy import Policy
from loraline_operator import naming
from loraline_operator.actions import Create, Delete
from loraline_operator.observed_claims import Claim
from unit.operator.builders import (
    NOW,
    FineTuneBuilder,
    a_finetune,
    a_pod,
    a_snapshot,
    an_ended_pod,
    an_outcome,
    complete,
    failed,
    seen,
)
from unit.operator.planning import after, planned, status_of, the_job, told

STRICT = Policy.model_validate({"limits": {"rank": 8}})
LOOSE = Policy.model_validate({"limits": {"rank": 64}})
LATER = NOW + timedelta(minutes=5)
LIMITED = Policy.model_validate({"limits": {"gpus": 1}})
SIZED = "hf://meta-llama/Llama-3.1-8B"


REFUSAL = "spec.adapter.rank is 16 and the policy of namespace support allows 8; lower it, or ask the platform team"


def test_a_violation_starts_nothing_and_is_stalled_with_the_limit_in_the_message() -> None:
    plan = planned(a_finetune(), seen(), policy=STRICT)
    assert plan.actions == ()
    assert told(status_of(plan)) == ("False", "PolicyViolation", REFUSAL)
    assert "Stalled" in {condition.type for condition in status_of(plan).conditions}
    assert [event.reason for event in plan.events] == ["PolicyViolation"]


def test_an_edit_of_the_policy_starts_what_waited() -> None:
    waiting = after(a_finetune(), seen(), policy=STRICT)
    plan = planned(waiting, seen(), policy=LOOSE)
    assert [action.ref.kind for action in plan.actions] == ["ConfigMap", "Job"]
    assert "Stalled" not in {condition.type for condition in status_of(plan).conditions}


def test_an_edit_that_changes_no_verdict_writes_nothing() -> None:
    waiting = after(a_finetune(), seen(), policy=STRICT)
    other = Policy.model_validate({"limits": {"rank": 8, "maxSeqLength": 65536}})
    plan = planned(waiting, seen(), LATER, other)
    assert (plan.actions, plan.status) == ((), waiting.object().status)


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_a_run_with_a_pod_goes_on_under_a_stricter_policy(phase: str) -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = the_job(a_finetune())
    plan = planned(begun, seen(job, a_pod(job, phase), a_snapshot(job.run_id)), policy=STRICT)
    assert not [action for action in plan.actions if isinstance(action, Delete)]
    assert told(status_of(plan))[1] != "PolicyViolation"


def test_a_new_default_deadline_leaves_alone_what_runs() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = the_job(a_finetune())
    hurried = Policy.model_validate({"defaults": {"activeDeadlineSeconds": 60}})
    plan = planned(begun, seen(job, a_pod(job, "Running"), a_snapshot(job.run_id)), policy=hurried)
    assert plan.actions == ()


def test_a_run_that_has_begun_is_retried_under_a_stricter_policy() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = failed(the_job(a_finetune()))
    ended = seen(job, an_ended_pod(job, 1), a_snapshot(job.run_id))
    retrying = after(begun, ended, policy=STRICT)
    plan = planned(retrying, ended, LATER, STRICT)
    assert [action.ref.name for action in plan.actions if isinstance(action, Create)] == [
        naming.job_name("tickets", job.run_id, 2)
    ]


def test_a_job_that_somebody_deletes_is_made_anew_under_a_stricter_policy() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = the_job(a_finetune())
    orphan = a_pod(job, is_deleting=True)
    blocked = after(begun, seen(orphan, a_snapshot(job.run_id)), policy=STRICT)
    plan = planned(blocked, seen(a_snapshot(job.run_id)), policy=STRICT)
    assert [action.ref.kind for action in plan.actions] == ["Job"]


def test_a_suspended_run_is_judged_when_it_is_resumed() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = the_job(a_finetune())
    suspended = after(begun.with_spec("suspend", True), seen(job, a_snapshot(job.run_id)), policy=STRICT)
    plan = planned(suspended.with_spec("suspend", False), seen(a_snapshot(job.run_id)), policy=STRICT)
    assert told(status_of(plan))[1:] == ("PolicyViolation", REFUSAL)


def test_a_run_whose_settings_are_edited_is_judged_again() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = the_job(a_finetune())
    edited = begun.with_spec("compute", {"priorityClassName": "high"})
    remade = after(edited, seen(job, a_snapshot(job.run_id)), policy=STRICT)
    plan = planned(remade, seen(a_snapshot(job.run_id)), policy=STRICT)
    assert told(status_of(plan))[1] == "PolicyViolation"


def test_a_finished_run_is_left_alone() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = complete(the_job(a_finetune()))
    ended = seen(job, an_ended_pod(job, 0, an_outcome(job.run_id)), a_snapshot(job.run_id))
    done = after(begun, ended, policy=LOOSE)
    plan = planned(done, ended, policy=STRICT)
    assert (plan.actions, plan.status) == ((), done.object().status)


def test_an_edit_into_a_violation_stops_the_run_of_the_recipe_of_before() -> None:
    begun = after(a_finetune(), seen(), policy=LOOSE)
    job = the_job(a_finetune())
    plan = planned(begun.with_rank(128), seen(job, a_pod(job), a_snapshot(job.run_id)), policy=LOOSE)
    assert [type(action).__name__ for action in plan.actions] == ["Delete"]
    assert told(status_of(plan))[1] == "PolicyViolation"


def test_defaults_reach_the_job_and_their_edit_leaves_it() -> None:
    default = Policy.model_validate({"defaults": {"activeDeadlineSeconds": 600, "queueName": "gpus"}})
    plan = planned(a_finetune(), seen(), policy=default)
    (job,) = [action.manifest for action in plan.actions if isinstance(action, Create) and action.ref.kind == "Job"]
    assert job["spec"]["activeDeadlineSeconds"] == 600
    assert job["metadata"]["labels"][naming.KUEUE_QUEUE_LABEL] == "gpus"
    begun = a_finetune().with_status(status_of(plan))
    waits = the_job(a_finetune())
    again = planned(begun, seen(waits, a_snapshot(waits.run_id)), policy=Policy())
    assert again.actions == ()


def test_a_card_that_is_too_small_gets_no_pod() -> None:
    builder = a_finetune().with_spec("baseModel.uri", "hf://Qwen/Qwen2.5-72B").with_spec("compute.gpuType", "L4")
    plan = planned(builder, seen())
    assert plan.actions == ()
    status, reason, message = told(status_of(plan))
    assert (status, reason) == ("False", "GpuTooSmall")
    assert "spec.compute.gpuType, L4, has 22.5; set spec.compute.gpuType to" in message


@pytest.mark.parametrize(
    "builder",
    [
        pytest.param(a_finetune(), id="that starts"),
        pytest.param(a_finetune().with_spec("suspend", True), id="that is suspended"),
        pytest.param(a_finetune().with_spec("dataset.train.uri", "configmap://no/data"), id="without data"),
        pytest.param(a_finetune().with_spec("training.maxSeqLength", 4096), id="that the policy refuses"),
    ],
)
def test_the_estimate_is_told_at_the_first_look_at_a_fine_tune(builder: FineTuneBuilder) -> None:
    policy = Policy.model_validate({"limits": {"maxSeqLength": 2048}})
    estimate = status_of(planned(builder.with_spec("baseModel.uri", SIZED), seen(), policy=policy)).estimate
    assert estimate is not None
    assert estimate.memory_gib is not None


def test_the_estimate_of_a_run_that_has_begun_stays_under_another_catalogue() -> None:
    builder = a_finetune().with_spec("baseModel.uri", SIZED)
    begun = after(builder, seen())
    job = the_job(builder)
    plan = planned(begun, seen(job, a_pod(job), a_snapshot(job.run_id)), policy=Policy(gpus={}))
    assert status_of(plan).estimate == begun.object().status.estimate


def test_a_fine_tune_over_the_limit_of_gpus_waits_and_is_not_stalled() -> None:
    claims = (Claim("other", NOW, 1, holds=True, jobs=("other-1",)), Claim("tickets", NOW, 1, waits=True))
    plan = planned(a_finetune(), replace(seen(), claims=claims), policy=LIMITED)
    assert plan.actions == ()
    assert told(status_of(plan))[1:] == (
        "WaitingForGpus",
        "spec.compute asks for 1 GPU and the policy of namespace support allows 1 at once, of which 1 are held by "
        "other; it starts when they end",
    )
    assert status_of(plan).waiting is not None
    assert "Stalled" not in {condition.type for condition in status_of(plan).conditions}
    waiting = a_finetune().with_status(status_of(plan))
    free = replace(seen(), claims=(Claim("tickets", NOW, 1, waits=True),))
    started = planned(waiting, free, LATER, LIMITED)
    assert [action.ref.kind for action in started.actions] == ["ConfigMap", "Job"]
    assert status_of(started).waiting is None


def test_a_fine_tune_that_loses_its_attempt_counts_the_gpus_before_the_next_and_makes_no_noise() -> None:
    plan = planned(a_finetune(), seen(), policy=LIMITED)
    assert (plan.actions, plan.events) == ((), ())
    assert told(status_of(plan))[1:] == ("Pending", "the GPUs that namespace support holds are being counted")
    assert plan.requeue_after_s == 1.0
