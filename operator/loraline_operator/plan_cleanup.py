"""Our finalizer, and what goes when a run's TTL or the bounded history has passed.

The object itself is never deleted here. What happens when somebody deletes it is in `plan_deletion`.
"""

from __future__ import annotations

from datetime import datetime

from loraline_api.finetune import LoraFineTuneSpec
from loraline_operator import naming
from loraline_operator.actions import Action, Delete, Kind, Patch, Ref
from loraline_operator.observed import CustomObject, FineTuneObject, SpecT, StatusT
from loraline_operator.observed_finetune import Job, ObservedFineTune, Snapshot

KEPT_ATTEMPTS = 5
"""Finished Jobs of earlier attempts that stay while a run goes on, for their logs."""


def add_finalizer(object: CustomObject[SpecT, StatusT]) -> Patch:
    """Adds our finalizer to an object."""
    return _with_finalizers(object, [*object.meta.finalizers, naming.FINALIZER])


def remove_finalizer(object: CustomObject[SpecT, StatusT]) -> Patch:
    """Removes our finalizer from an object."""
    return _with_finalizers(object, [name for name in object.meta.finalizers if name != naming.FINALIZER])


def earlier_attempts(jobs: tuple[Job, ...], namespace: str, attempt: int) -> tuple[Action, ...]:
    """Deletions of the finished Jobs of a run's earlier attempts, but for the last few: they may be many."""
    return tuple(
        Delete(Ref(Kind.JOB, namespace, job.name), job.uid)
        for job in jobs
        if not job.is_live and not job.is_deleting and job.attempt < attempt - KEPT_ATTEMPTS
    )


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
