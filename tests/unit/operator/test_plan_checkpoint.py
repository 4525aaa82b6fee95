"""What the status and the events of a fine-tune say of checkpoints."""

from __future__ import annotations

from dataclasses import replace

from loraline_api.conditions import Reason
from loraline_api.progress import CheckpointProgress, Progress, Stage
from loraline_operator.actions import Event
from loraline_operator.observed_finetune import ObservedFineTune
from unit.operator.builders import (
    FineTuneBuilder,
    a_finetune,
    a_pod,
    a_snapshot,
    an_ended_pod,
    an_outcome,
    complete,
    seen,
)
from unit.operator.planning import after, planned, status_of, the_job, told

RESUMED = CheckpointProgress(resumed_step=40, resumed_attempt=1, saved_step=40)


def running(builder: FineTuneBuilder, checkpoint: CheckpointProgress | None) -> ObservedFineTune:
    """The world in which the attempt tells this of checkpoints."""
    job = the_job(builder)
    progress = Progress(stage=Stage.TRAINING, step=41, total_steps=60, checkpoint=checkpoint)
    return replace(seen(job, a_pod(job), a_snapshot(job.run_id)), progress=progress)


def news(builder: FineTuneBuilder, checkpoint: CheckpointProgress) -> tuple[Event, ...]:
    """Events when a running attempt that had told nothing yet tells this."""
    builder = after(after(builder, seen()), running(builder, None))
    return planned(builder, running(builder, checkpoint)).events


def test_the_message_of_running_says_from_which_step_the_attempt_went_on() -> None:
    builder = after(a_finetune(), seen())
    status = status_of(planned(builder, running(builder, RESUMED)))
    assert told(status)[2].endswith("; resumed from step 40 of attempt 1")
    assert status.progress is not None
    assert status.progress.checkpoint == RESUMED


def test_going_on_from_a_checkpoint_is_an_event_once() -> None:
    run_id = the_job(a_finetune()).run_id
    assert news(a_finetune(), RESUMED) == (
        Event(Reason.RESUMED, f"run {run_id}, attempt 1 resumed from step 40 of attempt 1", is_warning=False),
    )
    builder = after(a_finetune(), seen())
    builder = after(builder, running(builder, RESUMED))
    assert planned(builder, running(builder, RESUMED)).events == ()


def test_a_damaged_checkpoint_is_a_warning_that_names_its_step_and_fault() -> None:
    run_id = the_job(a_finetune()).run_id
    damaged = CheckpointProgress(damaged=["step 60: optimizer.pt is missing"])
    assert news(a_finetune(), damaged) == (
        Event(
            Reason.CHECKPOINT_DAMAGED,
            f"run {run_id}, attempt 1: the checkpoint of step 60: optimizer.pt is missing; it was skipped, and the "
            "next older one is taken instead",
            is_warning=True,
        ),
    )


def test_a_checkpoint_that_cannot_be_stored_is_a_warning() -> None:
    run_id = the_job(a_finetune()).run_id
    problem = CheckpointProgress(problem="the checkpoint of step 40 is not stored: http://s3:9000 did not answer")
    (event,) = news(a_finetune(), problem)
    assert event == Event(Reason.CHECKPOINT_UNAVAILABLE, f"run {run_id}, attempt 1: {problem.problem}", is_warning=True)


def test_a_finished_run_still_says_what_it_was_continued_from() -> None:
    """Also when the attempt was over before the operator could ask it."""
    builder = after(a_finetune(), seen())
    job = complete(the_job(builder))
    outcome = an_outcome(job.run_id).model_copy(update={"checkpoint": RESUMED})
    plan = planned(builder, seen(job, an_ended_pod(job, 0, outcome), a_snapshot(job.run_id)))
    progress = status_of(plan).progress
    assert progress is not None
    assert progress.checkpoint == RESUMED
    assert [event.reason for event in plan.events] == [Reason.SUCCEEDED, Reason.RESUMED]
