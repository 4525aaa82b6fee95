"""How an attempt ended: from its finished Job and its pods to a verdict, and whether another attempt can help.

What follows from the verdict is decided in `plan_finetune`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from loraline_api import outcome
from loraline_api.conditions import Reason
from loraline_api.outcome import ExitCode, Outcome
from loraline_operator.observed_finetune import Job, Pod

FIRST_RETRY_DELAY_S = 10
LONGEST_RETRY_DELAY_S = 600
DEADLINE_EXCEEDED = "DeadlineExceeded"
"""Reason of a Job that ran over activeDeadlineSeconds (Kubernetes: batch/v1)."""

SIGKILL_EXIT_CODE = 137


@dataclass(frozen=True, slots=True)
class Verdict:
    """How an attempt ended."""

    succeeded: bool
    reason: Reason
    message: str
    can_retry: bool = False
    is_counted: bool = True
    """Whether it counts against spec.retries; disruptions never do."""
    outcome: Outcome | None = None


def verdict(job: Job, pods: tuple[Pod, ...]) -> Verdict:
    """The end of a finished Job."""
    if not job.has_failed:
        return _of_success(job, pods)
    if job.end == DEADLINE_EXCEEDED:
        message = "the attempt ran longer than spec.activeDeadlineSeconds; raise it, or train for fewer steps"
        return Verdict(succeeded=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    return _of_failure(job, pods)


def retry_delay(failures: int) -> timedelta:
    """Time from a failure to the next attempt: 10 s, doubled with each failure that counts, at most 10 minutes."""
    return timedelta(seconds=min(FIRST_RETRY_DELAY_S * 2 ** max(failures - 1, 0), LONGEST_RETRY_DELAY_S))


def _of_success(job: Job, pods: tuple[Pod, ...]) -> Verdict:
    """The adapter of a completed Job; without its message the next attempt finds it by the run's record in S3."""
    for pod in pods:
        result = outcome.parse_outcome(pod.termination_message)
        if result is not None and result.version and result.uri and result.run_id == job.run_id:
            message = f"adapter {result.version} lies at {result.uri}"
            return Verdict(succeeded=True, reason=Reason.SUCCEEDED, message=message, outcome=result)
    message = (
        f"Job {job.name} completed, but no pod of it tells which adapter it published; another attempt looks it up"
    )
    return Verdict(succeeded=False, reason=Reason.INTERRUPTED, message=message, can_retry=True, is_counted=False)


def _of_failure(job: Job, pods: tuple[Pod, ...]) -> Verdict:
    ended = [pod for pod in pods if pod.exit_code is not None]
    if not ended:
        message = f"no pod of Job {job.name} is left ({job.end}: {job.message or 'no message'})"
        return Verdict(succeeded=False, reason=Reason.INTERRUPTED, message=message, can_retry=True, is_counted=False)
    pod = max(ended, key=lambda pod: (pod.created is not None, pod.created, pod.name))
    result = outcome.parse_outcome(pod.termination_message)
    if pod.is_out_of_memory:
        message = (
            f"pod {pod.name} was killed at its memory limit (exit code {pod.exit_code}); "
            "raise spec.compute.requests.memory, or lower training.microBatchSize or maxSeqLength"
        )
        return Verdict(succeeded=False, reason=Reason.OUT_OF_MEMORY, message=message, can_retry=True, outcome=result)
    if pod.exit_code == SIGKILL_EXIT_CODE:
        message = f"pod {pod.name} was killed (exit code {pod.exit_code}); the node may have failed or been drained"
        return _interrupted(message, result)
    return _of_exit_code(pod, result)


def _of_exit_code(pod: Pod, result: Outcome | None) -> Verdict:
    number = pod.exit_code if pod.exit_code is not None else int(ExitCode.UNEXPECTED_ERROR)
    known = number in ExitCode.__members__.values() and number != ExitCode.SUCCEEDED
    code = ExitCode(number) if known else ExitCode.UNEXPECTED_ERROR
    unsaid = f"pod {pod.name} ended with exit code {number} and left no message; `kubectl logs {pod.name}` has more"
    message = result.message if result is not None and result.message else unsaid
    if code is ExitCode.INTERRUPTED:
        return _interrupted(message, result)
    return Verdict(succeeded=False, reason=code.reason, message=message, can_retry=code.is_retryable, outcome=result)


def _interrupted(message: str, result: Outcome | None) -> Verdict:
    return Verdict(
        succeeded=False,
        reason=Reason.INTERRUPTED,
        message=message,
        can_retry=True,
        is_counted=False,
        outcome=result,
    )
