"""What is told of a Job that is suspended: it waits in a queue of Kueue, or was stopped by it to make room.

Kueue alone starts and stops such a Job; nothing is done about it here, and nothing of it counts.
"""

from __future__ import annotations

from loraline_api.conditions import Reason
from loraline_operator.observed_finetune import Job
from loraline_operator.plan_decision import Look


def told(look: Look, what: str, job: Job) -> tuple[Reason, str]:
    """Reason and message for a live Job that is suspended."""
    if job.queue is None:
        return (
            Reason.PENDING,
            f"{what}: Job {job.name} is suspended; set its spec.suspend to false, unless a queue will",
        )
    run = look.status.run
    had_begun = look.told in (Reason.RUNNING, Reason.PREEMPTED) and run is not None and run.job_name == job.name
    why = f" ({look.observed.stopped})" if look.observed.stopped else ""
    if had_begun:
        return Reason.PREEMPTED, f"{what} was stopped by Kueue{why} and waits in queue {job.queue} to go on"
    return Reason.QUEUED, f"{what} waits in queue {job.queue}{why}"
