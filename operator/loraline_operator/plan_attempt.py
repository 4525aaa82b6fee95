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

LONGEST_RETRY_DELAY_S = 600
STABLE_S = 600
"""An attempt that lasted this long did not fail at its start, so the next need not wait long."""

DEADLINE_EXCEEDED = "DeadlineExceeded"
"""Reason of a Job that ran over activeDeadlineSeconds (Kubernetes: batch/v1)."""

POD_FAILURE_POLICY = "PodFailurePolicy"
"""Reason of a Job that a rule of its podFailurePolicy ended: a permanent exit code, or a disruption among several
nodes."""

SIGKILL_EXIT_CODE = 137
SIGTERM_EXIT_CODE = 143
"""Of a trainer that had not begun to listen to SIGTERM, so it had nothing to save."""


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
        message = (
            f"Job {job.name} was active for longer than spec.activeDeadlineSeconds is, {job.deadline_s} s, in which "
            "waiting for a node counts; raise it, or train for fewer steps"
        )
        return Verdict(succeeded=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    return _of_failure(job, pods)


def retry_delay(attempts: int, first_s: float, lasted_s: float = 0.0) -> timedelta:
    """Time from the end of an attempt to the next: `first_s`, doubled with each attempt, at most 10 minutes.

    Interruptions count too, although not against spec.retries: what is killed again and again at its start must not
    keep a cluster busy. One that had lasted for a while is followed after `first_s`.
    """
    if lasted_s >= STABLE_S:
        return timedelta(seconds=first_s)
    return timedelta(seconds=min(first_s * 2.0 ** min(attempts - 1, 10), LONGEST_RETRY_DELAY_S))


def _of_success(job: Job, pods: tuple[Pod, ...]) -> Verdict:
    """The adapter of a completed Job; without its message the next attempt finds it by the run's record in S3."""
    for pod in sorted(pods, key=lambda pod: pod.index):  # of several nodes the first speaks for all
        result = outcome.parse_outcome(pod.termination_message)
        if result is not None and result.version and result.uri and result.run_id == job.run_id:
            message = f"adapter {result.version} lies at {result.uri}"
            return Verdict(succeeded=True, reason=Reason.SUCCEEDED, message=message, outcome=result)
    message = (
        f"Job {job.name} completed, but no pod of it tells which adapter it published; another attempt looks it up"
    )
    return Verdict(succeeded=False, reason=Reason.INTERRUPTED, message=message, can_retry=True, is_counted=False)


def _of_failure(job: Job, pods: tuple[Pod, ...]) -> Verdict:
    ended = [pod for pod in pods if pod.exit_code is not None and pod.exit_code != ExitCode.SUCCEEDED]
    if not ended:
        message = f"no pod of Job {job.name} is left ({job.end}: {job.message or 'no message'})"
        return Verdict(succeeded=False, reason=Reason.INTERRUPTED, message=message, can_retry=True, is_counted=False)
    verdicts = [_of_pod(pod) for pod in _newest(ended)]
    permanent = next((each for each in verdicts if not each.can_retry), None)
    if permanent is not None:
        return permanent
    disrupted = _disruption(job, ended)
    if disrupted is not None:
        return disrupted
    return next((each for each in verdicts if each.is_counted), verdicts[0])


def _newest(ended: list[Pod]) -> list[Pod]:
    """The last pod of each node that has ended, in the order of the nodes."""
    last = sorted(ended, key=lambda pod: (pod.created is not None, pod.created, pod.name))
    return sorted({pod.index: pod for pod in last}.values(), key=lambda pod: pod.index)


def _disruption(job: Job, ended: list[Pod]) -> Verdict | None:
    """The verdict on several nodes of which one was disrupted: the others end in all manner of ways then."""
    if job.nodes == 1:
        return None
    pod = next((pod for pod in ended if pod.is_disrupted or pod.is_lost), None)
    if pod is not None:
        return _interrupted(f"pod {pod.name} was stopped from outside, and the attempt with it", None)
    if job.end == POD_FAILURE_POLICY:  # no pod that is left ended with a permanent exit code
        return _interrupted(f"a pod of Job {job.name} was stopped from outside, and the attempt with it", None)
    return None


def _of_pod(pod: Pod) -> Verdict:
    result = outcome.parse_outcome(pod.termination_message)
    if pod.is_out_of_memory:
        message = _out_of_memory(pod)
        return Verdict(succeeded=False, reason=Reason.OUT_OF_MEMORY, message=message, can_retry=True, outcome=result)
    if pod.is_lost:
        return _interrupted(f"the node of pod {pod.name} went down, and the pod with it", result)
    if pod.exit_code == SIGTERM_EXIT_CODE:
        return _interrupted(f"pod {pod.name} was stopped (exit code {pod.exit_code}) before it trained", result)
    if pod.exit_code == SIGKILL_EXIT_CODE:
        return _interrupted(_killed(pod), result)
    return _of_exit_code(pod, result)


def _out_of_memory(pod: Pod) -> str:
    """What is told of a pod that the kernel killed for its memory."""
    others = "or lower training.microBatchSize or training.maxSeqLength, which starts a new run"
    if pod.memory_limit is None:
        return (
            f"pod {pod.name} was killed (exit code {pod.exit_code}) as its node had no memory left, and it had no "
            f"limit of its own; set spec.compute.requests.memory, by which it gets a node with room, {others}"
        )
    return (
        f"pod {pod.name} was killed at its memory limit, {pod.memory_limit} (exit code {pod.exit_code}); raise "
        f"spec.compute.requests.memory, and the run goes on from its newest checkpoint, {others}"
    )


def _killed(pod: Pod) -> str:
    """What is told of a pod that was killed, and Kubernetes does not say why."""
    why = "the node may have failed or been drained"
    if pod.memory_limit is None:
        why = "the node may have failed, been drained or run out of memory, as spec.compute.requests.memory is not set"
    return f"pod {pod.name} was killed (exit code {pod.exit_code}); {why}"


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
