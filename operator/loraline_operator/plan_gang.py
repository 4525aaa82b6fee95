"""Attempts on several nodes: all pods or none, and the Service by which they find each other.

Kueue lets in only what fits as a whole. Without it pods may get nodes one by one, and two attempts of which each holds
half of what the other needs would wait for ever: so an attempt that is not placed in time gives its nodes back, and
tries again after a time that grows and differs from fine-tune to fine-tune.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime, timedelta

from loraline_api.conditions import Reason
from loraline_api.finetune_status import RunRef
from loraline_operator import manifests_gang, naming, plan_attempt, plan_result
from loraline_operator.actions import Action, Create, Delete, Kind, Ref
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import Job, Pod
from loraline_operator.plan_conditions import Phase
from loraline_operator.plan_decision import Decision, Look, what


def is_whole(job: Job, pods: tuple[Pod, ...]) -> bool:
    """Whether every node of the attempt has a pod that runs, or has done its work."""
    there = {pod.index for pod in pods if pod.phase in ("Running", "Succeeded") and not pod.is_deleting}
    return len(there) == job.nodes


def told(look: Look, run: RunRef, job: Job) -> tuple[Reason, str]:
    """Reason and message for an attempt of which not all pods run."""
    pods = [pod for pod in look.observed.pods_of(job) if pod.is_live and not pod.is_deleting]
    running = sum(pod.phase == "Running" for pod in pods)
    waiting = sorted((pod for pod in pods if pod.phase != "Running"), key=lambda pod: (pod.stuck is None, pod.index))
    stuck = next((pod.stuck for pod in waiting if pod.stuck is not None), look.observed.stuck)
    message = f"{what(run)}: {running} of {job.nodes} pods run"
    message += f"; pod {waiting[0].name}" if waiting else f"; Job {job.name} has made {len(pods)}"
    if stuck is None:
        return Reason.PENDING, message + (" starts" if waiting else " so far")
    return stuck.reason, f"{message}: {stuck.message}{plan_result.remedy(stuck.reason)}"


def late_at(look: Look, job: Job) -> datetime | None:
    """When all pods of the attempt have to have nodes; None where they may wait for ever, or need not wait together."""
    if job.nodes == 1 or job.queue is not None or job.start_time is None or job.is_deleting:
        return None
    return job.start_time + timedelta(seconds=look.settings.gang_timeout_s)


def taken_back(look: Look, run: RunRef, job: Job) -> Decision | None:
    """The end of an attempt whose pods did not all get nodes in time; None while it may go on."""
    timeout_s = look.settings.gang_timeout_s
    end = late_at(look, job)
    if end is None or look.now < end:
        return None
    pods = look.observed.pods_of(job)
    placed = {pod.index for pod in pods if pod.has_node}
    if len(placed) == job.nodes:
        return None
    delay = _delay(look, run)
    retry_time = look.now + delay
    waiting = sorted(pod.name for pod in pods if not pod.has_node)
    stuck = next((pod.stuck for pod in pods if pod.stuck is not None), look.observed.stuck)
    words = ", ".join(waiting[:3]) or f"Job {job.name}, which made {len(pods)} pods"
    message = (
        f"{what(run)} gave its nodes back: after {timeout_s:.0f} s {len(placed)} of {job.nodes} pods had one, and "
        f"{words} waited{f': {stuck.message}' if stuck is not None else ''}; attempt {run.attempt + 1} starts at "
        f"{retry_time:%H:%M:%S} UTC"
    )
    changes = {"attempt": run.attempt + 1, "retry_time": retry_time, "job_name": None}
    status = look.status.model_copy(update={"run": run.model_copy(update=changes), "progress": None})
    actions = (Delete(Ref(Kind.JOB, look.object.meta.namespace, job.name), job.uid),)
    return Decision(Phase.PENDING, Reason.GANG_TIMEOUT, message, status, actions, requeue_after_s=delay.total_seconds())


def may_have_services(object: FineTuneObject, jobs: tuple[Job, ...]) -> bool:
    """Whether Services need be looked for: not for each of thousands of fine-tunes of one node, every few seconds."""
    if any(job.nodes > 1 for job in jobs) or (object.spec is not None and object.spec.compute.nodes > 1):
        return True
    has_ended = object.status.run is not None and object.status.run.completion_time is not None
    return not has_ended and not any(job.is_live for job in jobs)


def with_services(look: Look, decision: Decision) -> Decision:
    """The decision with the Service that its attempt needs made first, and all others deleted."""
    meta = look.object.meta
    deleted = {action.ref.name for action in decision.actions if isinstance(action, Delete)}
    created = [action.manifest for action in decision.actions if isinstance(action, Create)]
    wanted = {job.run_id for job in look.jobs if job.nodes > 1 and job.is_live and job.name not in deleted} | {
        manifest["metadata"]["labels"][naming.RUN_LABEL]
        for manifest in created
        if manifest["kind"] == Kind.JOB and manifest["spec"]["completions"] > 1
    }
    own = [service for service in look.observed.services if service.owner_uid == meta.uid]
    there = {service.run_id for service in own if not service.is_deleting}
    before: list[Action] = []
    for run_id in sorted(wanted - there):
        ref = Ref(Kind.SERVICE, meta.namespace, naming.nodes_service_name(meta.name, run_id))
        before.append(Create(ref, manifests_gang.service(meta, run_id)))
    stale = [  # before their Job: without it nobody would look for them
        Delete(Ref(Kind.SERVICE, meta.namespace, service.name), service.uid)
        for service in own
        if service.run_id not in wanted and not service.is_deleting
    ]
    return replace(decision, actions=(*before, *stale, *decision.actions))


def _delay(look: Look, run: RunRef) -> timedelta:
    """Time to the next attempt: it doubles, and up to as much again by a number that is this fine-tune's own."""
    digest = hashlib.sha256(f"{look.object.meta.uid}/{run.attempt}".encode()).digest()
    seconds = plan_attempt.retry_delay(run.attempt, look.settings.first_retry_delay_s).total_seconds()
    return timedelta(seconds=round(seconds * (1 + digest[0] / 255)))
