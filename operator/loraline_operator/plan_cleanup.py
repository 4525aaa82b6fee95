"""What goes when a fine-tune is deleted, and what its TTL and its bounded history leave behind.

The object itself is never deleted here, and nothing in S3 is.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from loraline_api.finetune import LoraFineTuneSpec, LoraFineTuneStatus
from loraline_operator import naming
from loraline_operator.actions import Action, Delete, Kind, Patch, Plan, Ref
from loraline_operator.observed import CustomObject, FineTuneObject, SpecT, StatusT
from loraline_operator.observed_finetune import Job, ObservedFineTune, Snapshot

CLEANUP_LIMIT_S = 300
"""Longest that pods hold up a deletion: a pod on a dead node never ends."""

CLEANUP_INTERVAL_S = 5.0


def add_finalizer(object: CustomObject[SpecT, StatusT]) -> Patch:
    """Adds our finalizer to an object."""
    return _with_finalizers(object, [*object.meta.finalizers, naming.FINALIZER])


def remove_finalizer(object: CustomObject[SpecT, StatusT]) -> Patch:
    """Removes our finalizer from an object."""
    return _with_finalizers(object, [name for name in object.meta.finalizers if name != naming.FINALIZER])


def plan_finetune(object: FineTuneObject, observed: ObservedFineTune, now: datetime) -> Plan[LoraFineTuneStatus]:
    """Deletes the Jobs of a fine-tune that is being deleted, waits for their pods, then lets the object go.

    So a fine-tune made again under the same name never meets a live attempt of the old one. Snapshots go with their
    owner.
    """
    if naming.FINALIZER not in object.meta.finalizers:
        return Plan()
    jobs = [job for job in observed.jobs if job.owner_uid == object.meta.uid]
    deletions: tuple[Action, ...] = tuple(
        Delete(Ref(Kind.JOB, object.meta.namespace, job.name), job.uid) for job in jobs if not job.is_deleting
    )
    is_waiting = bool(jobs) or any(pod.is_live for pod in observed.pods)
    is_late = object.meta.deleted is not None and now - object.meta.deleted > timedelta(seconds=CLEANUP_LIMIT_S)
    if is_waiting and not is_late:
        return Plan(deletions, requeue_after_s=CLEANUP_INTERVAL_S)
    return Plan((*deletions, remove_finalizer(object)))


def tidy(
    object: FineTuneObject, spec: LoraFineTuneSpec, observed: ObservedFineTune, now: datetime
) -> tuple[tuple[Action, ...], float | None]:
    """Deletions of finished Jobs and snapshots past their time, and the seconds until the next is due.

    Children stay while their run is in the history and its TTL, if there is one, has not passed.
    """
    ended = {record.run_id: record.completion_time for record in object.status.history}
    ttl = spec.ttl_seconds_after_finished
    due: list[Action] = []
    waits: list[float] = []
    jobs = (job for job in observed.jobs if not job.is_live and not job.is_deleting)
    children: tuple[Job | Snapshot, ...] = (*jobs, *observed.snapshots)
    for child in children:
        if child.owner_uid != object.meta.uid:
            continue
        left_s = _seconds_left(ended.get(child.run_id), ttl, now)
        if left_s is not None and left_s <= 0:
            kind = Kind.JOB if isinstance(child, Job) else Kind.CONFIG_MAP
            due.append(Delete(Ref(kind, object.meta.namespace, child.name), child.uid))
        elif left_s is not None:
            waits.append(left_s)
    return tuple(due), min(waits, default=None)


def _seconds_left(ended: datetime | None, ttl: int | None, now: datetime) -> float | None:
    """Seconds until a child goes; None keeps it for good. A run that the history does not hold has none left."""
    if ended is None:
        return 0
    return None if ttl is None else ttl - (now - ended).total_seconds()


def _with_finalizers(object: CustomObject[SpecT, StatusT], finalizers: list[str]) -> Patch:
    patch = {"metadata": {"finalizers": finalizers}}
    return Patch(object.ref, patch, uid=object.meta.uid, resource_version=object.meta.resource_version)
