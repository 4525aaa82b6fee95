"""An attempt that has not ended: running, or why not yet, in words.

How an attempt ended is judged in `plan_attempt`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from loraline_api.conditions import Reason
from loraline_api.finetune_status import RunRef
from loraline_operator import plan_checkpoint, plan_gang, plan_queue, plan_result
from loraline_operator.actions import Action, Kind, Patch, Ref
from loraline_operator.observed_finetune import Job, Pod
from loraline_operator.plan_conditions import Phase
from loraline_operator.plan_decision import Decision, Look, what

PENDING_INTERVAL_S = 600.0
"""Longest time between two looks at an attempt that does not run: what keeps it comes by watches, or a resync sees it.
Of 20,000 that wait, a look at each once a minute took a third of a core."""

SILENCE_S = 60
"""Time after a pod's grace period within which a node that lives has told of its end."""


def watch(look: Look, run: RunRef, job: Job, deletions: tuple[Action, ...]) -> Decision:
    """What is told of the attempt of this live Job; `deletions` are those of all others."""
    run = run.model_copy(update={"retry_time": None, "admitted": True})  # its Job would not be there otherwise
    status = look.status.model_copy(update={"run": run.model_copy(update={"job_name": job.name})})
    if not job.is_deleting and not job.is_suspended:
        running = _running(look, run, job)
        if running is not None:
            if look.observed.progress is not None:
                status = status.model_copy(update={"progress": look.observed.progress})
            actions = (*deletions, *_deadline(look, job))
            message = running + plan_checkpoint.clause(status.progress)
            wait_s = look.observed.progress_in_s
            if wait_s is None:
                wait_s = look.settings.progress_interval_s
            return Decision(Phase.RUNNING, Reason.RUNNING, message, status, actions, requeue_after_s=wait_s)
        late = plan_gang.taken_back(look, run, job)
        if late is not None:
            return late
    silence = lost(look.observed.pods_of(job), look.now)
    lost_node = (Reason.NODE_LOST, f"{what(run)}: {silence}") if silence is not None else None
    reason, message = lost_node or _waiting(look, run, job)
    status = status.model_copy(update={"progress": None})
    return Decision(Phase.PENDING, reason, message, status, deletions, requeue_after_s=_wait_s(look, job))


def _running(look: Look, run: RunRef, job: Job) -> str | None:
    """What is told of an attempt that runs; None when it does not."""
    own = look.observed.pods_of(job)
    live = [pod for pod in own if pod.is_live]
    if own and not live and len(own) >= job.nodes:
        return f"{what(run)}: pod {own[-1].name} has ended; its Job is about to say how"
    if any(pod.phase == "Failed" for pod in own) and job.nodes > 1 and lost(own, look.now) is None:
        failed = next(pod for pod in own if pod.phase == "Failed")
        return f"{what(run)}: pod {failed.name} has ended; the others are stopped"
    if not live or not plan_gang.is_whole(job, own):
        return None
    first = min(live, key=lambda pod: pod.index)
    return f"{what(run)} runs in " + (f"pod {first.name}" if job.nodes == 1 else f"{job.nodes} pods, of Job {job.name}")


def _waiting(look: Look, run: RunRef, job: Job) -> tuple[Reason, str]:
    """Reason and message of an attempt that does not run."""
    pods = [pod for pod in look.observed.pods_of(job) if pod.is_live]
    if job.is_deleting:
        return Reason.PENDING, f"{what(run)}: Job {job.name} is being deleted and will be made anew"
    if job.is_suspended:
        return plan_queue.told(look, what(run), job)
    if job.nodes > 1:
        return plan_gang.told(look, run, job)
    pod_name = f"pod {pods[0].name}" if pods else f"Job {job.name}"
    if any(pod.phase == "Running" for pod in pods):
        return Reason.PENDING, f"{what(run)}: {pod_name} is being deleted; its Job replaces it"
    stuck = next((pod.stuck for pod in pods if pod.stuck is not None), look.observed.stuck)
    if stuck is not None:
        return stuck.reason, f"{what(run)}: {pod_name}: {stuck.message}{plan_result.remedy(stuck.reason)}"
    return Reason.PENDING, f"{what(run)}: {pod_name} " + ("starts" if pods else "has no pod yet")


def _wait_s(look: Look, job: Job) -> float:
    """Seconds until something turns by time alone: a node counts as silent, or the attempt gives its nodes back."""
    times = [_silent_at(pod) for pod in look.observed.pods_of(job)] + [plan_gang.late_at(look, job)]
    coming = [(time - look.now).total_seconds() for time in times if time is not None and time > look.now]
    return min((*coming, PENDING_INTERVAL_S))


def lost(pods: tuple[Pod, ...], now: datetime) -> str | None:
    """What is told of a pod whose node does not tell that it has ended; None when there is none.

    Kubernetes leaves such a pod until its node is back or somebody says that the node is gone: it may still train.
    """
    for pod in pods:
        silent_at = _silent_at(pod)
        if pod.ends_by is not None and silent_at is not None and now >= silent_at:
            return (
                f"pod {pod.name} was to end by {pod.ends_by:%H:%M:%S} UTC and its node {pod.node} is silent; the run "
                f"goes on when the node is back, or when you know that it is off and say so: kubectl delete node "
                f"{pod.node}"
            )
    return None


def _silent_at(pod: Pod) -> datetime | None:
    """When its node counts as silent, if the pod is to end there and nothing more is heard of it."""
    if not pod.is_live or not pod.node or pod.ends_by is None:
        return None
    return pod.ends_by + timedelta(seconds=SILENCE_S)


def _deadline(look: Look, job: Job) -> tuple[Action, ...]:
    """A deadline that was edited holds for the attempt that runs, too: Kubernetes lets a Job's be changed.

    An edit of the policy's default does not: it leaves alone what runs.
    """
    wanted = look.spec.active_deadline_seconds
    if job.deadline_s == wanted or job.settings_hash == look.settings_hash:
        return ()
    ref = Ref(Kind.JOB, look.object.meta.namespace, job.name)
    return (Patch(ref, {"spec": {"activeDeadlineSeconds": wanted}}, uid=job.uid),)
