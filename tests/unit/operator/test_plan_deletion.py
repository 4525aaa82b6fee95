"""A fine-tune that is deleted with its output: its attempts stop, its output goes, and it never stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from loraline_api.conditions import ConditionType
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import naming, observed_finetune
from loraline_operator.actions import Create, Kind, Patch, Plan
from loraline_operator.observed_finetune import Job, ObservedFineTune, Pod
from unit.operator.builders import (
    NOW,
    UID,
    VERSION,
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
from unit.operator.planning import after, names, planned, status_of, the_job, told

CLEANUP = naming.cleanup_job_name("tickets", UID)
GONE = [("Patch", Kind.FINE_TUNE, "tickets")]


def asked() -> FineTuneBuilder:
    """A fine-tune that asks for its output to go with it."""
    return a_finetune().with_spec("output.deletionPolicy", "Delete")


def held() -> FineTuneBuilder:
    """The same with our finalizer."""
    return asked().with_metadata(finalizers=[naming.FINALIZER])


def trained() -> FineTuneBuilder:
    """The same whose run has published an adapter."""
    builder = held()
    job = complete(the_job(builder))
    pod = an_ended_pod(job, 0, an_outcome(job.run_id))
    return after(after(builder, seen()), seen(job, pod, a_snapshot(job.run_id)))


def deleted(
    builder: FineTuneBuilder, *things: Job | Pod, at: datetime = NOW, others: frozenset[str] = frozenset()
) -> Plan[LoraFineTuneStatus]:
    observed = replace(seen(*things), held=others)
    return planned(builder.with_metadata(deletionTimestamp=NOW.isoformat()), observed, at)


def made(plan: Plan[LoraFineTuneStatus]) -> Job:
    """The Job that deletes the output, as the API server holds it."""
    (create,) = [action for action in plan.actions if isinstance(action, Create)]
    metadata = create.manifest["metadata"] | {"uid": "uid-of-cleanup", "resourceVersion": "1"}
    return observed_finetune.job(create.manifest | {"metadata": metadata})


def cleanup() -> Job:
    return made(deleted(trained()))


def its_pod(code: int, message: str) -> Pod:
    job = cleanup()
    return an_ended_pod(job, code, an_outcome("", code, message), owner_uid=job.uid)


@pytest.mark.parametrize(
    ("builder", "before", "after"),
    [
        pytest.param(asked(), ["other"], ["other", naming.FINALIZER], id="output that goes"),
        pytest.param(a_finetune(), ["other", naming.FINALIZER], ["other"], id="output that has come to stay"),
    ],
)
def test_the_finalizer_is_there_while_the_output_goes_too(
    builder: FineTuneBuilder, before: list[str], after: list[str]
) -> None:
    plan = planned(builder.with_metadata(finalizers=before), seen())
    (patch,) = plan.actions
    assert isinstance(patch, Patch)
    assert (patch.patch, plan.status, plan.requeue_after_s) == ({"metadata": {"finalizers": after}}, None, 0)


@pytest.mark.parametrize(
    "builder",
    [
        pytest.param(a_finetune(), id="output that stays"),
        pytest.param(held().with_rank(300), id="a spec that does not say"),
    ],
)
def test_nothing_is_done_to_finalizers_that_are_right(builder: FineTuneBuilder) -> None:
    assert Kind.FINE_TUNE not in [action.ref.kind for action in planned(builder, seen()).actions]


@pytest.mark.parametrize("builder", [pytest.param(asked(), id="asked for"), pytest.param(a_finetune(), id="not asked")])
def test_a_fine_tune_that_we_do_not_hold_goes_by_itself(builder: FineTuneBuilder) -> None:
    job = the_job(builder)
    assert deleted(builder, job, a_pod(job)) == Plan()


def test_a_deletion_with_its_output_first_runs_the_job_that_deletes_it() -> None:
    plan = deleted(trained())
    run_id = the_job(trained()).run_id
    (create,) = [action for action in plan.actions if isinstance(action, Create)]
    container = create.manifest["spec"]["template"]["spec"]["containers"][0]
    assert names(plan.actions) == [("Create", Kind.JOB, CLEANUP)]
    assert container["args"] == ["delete", "--uri", "s3://adapters/tickets", "--run", f"{run_id}={VERSION}"]


def test_the_job_has_no_owner_that_a_foreground_deletion_would_take_it_with() -> None:
    assert cleanup().owner_uid is None


def test_what_is_deleted_is_told_in_the_status_and_the_end_of_the_run_stays() -> None:
    status = status_of(deleted(trained()))
    place = "what its runs published at s3://adapters/tickets"
    assert (status.phase, told(status)[1:]) == (
        "Deleting",
        ("Deleting", f"tickets is deleted when Job {CLEANUP} has deleted {place}"),
    )
    assert told(status, ConditionType.COMPLETE)[0] == "True"


def test_a_live_attempt_ends_before_anything_is_deleted() -> None:
    builder = after(held(), seen())
    job = the_job(builder)
    first = deleted(builder, job, a_pod(job))
    second = deleted(builder, a_pod(job, is_deleting=True))
    assert names(first.actions) == [("Delete", Kind.JOB, job.name)]
    assert (second.actions, told(status_of(second))[2]) == (
        (),
        f"tickets is deleted when pod {job.name}-x7k2p has ended",
    )


@pytest.mark.parametrize(
    ("end", "actions", "events"),
    [
        pytest.param({}, [], [], id="the Job works"),
        pytest.param({"end": "CompletionsReached"}, [("Delete", Kind.JOB, CLEANUP), *GONE], [], id="the Job is done"),
    ],
)
def test_the_object_goes_when_its_output_is_gone(end: dict[str, Any], actions: list[Any], events: list[str]) -> None:
    plan = deleted(trained(), replace(cleanup(), **end))
    assert (names(plan.actions), [event.reason for event in plan.events if event.is_warning]) == (actions, events)


def test_an_output_that_cannot_be_deleted_is_told_and_holds_nothing_up() -> None:
    plan = deleted(trained(), failed(cleanup()), its_pod(15, "the storage denies access to s3://adapters"))
    run_id = the_job(trained()).run_id
    assert (names(plan.actions), plan.status) == (GONE, None)
    assert [(event.reason, event.message) for event in plan.events] == [
        (
            "OutputNotDeleted",
            f"the output of runs {run_id} at s3://adapters/tickets stays, as Job {CLEANUP} failed: "
            "the storage denies access to s3://adapters; delete it by hand",
        )
    ]


@pytest.mark.parametrize(
    ("things", "words"),
    [
        pytest.param((cleanup(),), "had not ended after 900 s", id="a Job that never ends"),
        pytest.param((), "no Job could be made for it within 900 s", id="a Job that never was"),
    ],
)
def test_a_deletion_never_waits_for_ever(things: tuple[Job, ...], words: str) -> None:
    plan = deleted(trained(), *things, at=NOW + timedelta(seconds=901))
    assert (names(plan.actions)[-1:], words in plan.events[0].message) == (GONE, True)


@pytest.mark.parametrize(
    "observed",
    [
        pytest.param(replace(seen(), conflict="this is why"), id="the namespace ends"),
        pytest.param(replace(seen(), refused="this is why"), id="the API server does not take it"),
    ],
)
def test_a_job_that_cannot_be_made_is_told_and_holds_nothing_up(observed: ObservedFineTune) -> None:
    plan = planned(trained().with_metadata(deletionTimestamp=NOW.isoformat()), observed)
    assert (names(plan.actions), "(this is why)" in plan.events[0].message) == (GONE, True)


def test_a_run_that_another_fine_tune_has_stays() -> None:
    assert names(deleted(trained(), others=frozenset({the_job(trained()).run_id})).actions) == GONE


def test_a_run_that_was_published_elsewhere_stays_there() -> None:
    moved = trained().with_spec("output.uri", "s3://adapters/moved")
    assert names(deleted(moved).actions) == [("Create", Kind.JOB, CLEANUP)]
    (create,) = [action for action in deleted(moved).actions if isinstance(action, Create)]
    args = create.manifest["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args == ["delete", "--uri", "s3://adapters/moved", "--run", the_job(trained()).run_id]


def test_a_fine_tune_that_never_ran_has_nothing_to_delete() -> None:
    assert names(deleted(held()).actions) == GONE


def test_a_pod_on_a_dead_node_holds_a_deletion_up_for_five_minutes_only() -> None:
    pod = a_pod(the_job(held()))
    assert names(deleted(held(), pod, at=NOW + timedelta(seconds=300)).actions) == []
    assert names(deleted(held(), pod, at=NOW + timedelta(seconds=301)).actions) == GONE


def test_a_spec_that_does_not_parse_holds_no_deletion_up() -> None:
    assert names(deleted(trained().with_rank(300)).actions) == GONE
