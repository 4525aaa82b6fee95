"""What happens when somebody deletes a fine-tune with its output: its attempts stop, the output goes, then the object.

Our finalizer holds it for that, and for nothing else: what is in the cluster has an owner, and goes by itself. Every
step is bounded in time: neither a pod on a dead node nor storage out of reach keeps an object for ever.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from loraline_api import artifact
from loraline_api.conditions import Reason
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import manifests_cleanup, naming, plan_attempt, plan_cleanup
from loraline_operator.actions import Action, Create, Delete, Event, Kind, Patch, Plan, Ref
from loraline_operator.manifests_cleanup import RunToDelete
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import Job, ObservedFineTune
from loraline_operator.plan_conditions import Phase
from loraline_operator.plan_decision import Decision
from loraline_operator.settings import Settings

STOP_LIMIT_S = 300
"""Longest that pods hold up a deletion: a pod on a dead node never ends."""

OUTPUT_LIMIT_S = 900
"""Longest that a deletion waits in all, the Job that deletes the output included."""

INTERVAL_S = 5.0


def deletes_output(object: FineTuneObject) -> bool:
    """Whether the fine-tune asks for the deletion of what it published."""
    return object.spec is not None and object.spec.output.deletion_policy == "Delete"


def hold(object: FineTuneObject) -> Patch | None:
    """Our finalizer for a fine-tune whose output goes with it, and its end for one whose output has come to stay."""
    is_held = naming.FINALIZER in object.meta.finalizers
    if object.spec is None or is_held == deletes_output(object):
        return None
    return plan_cleanup.remove_finalizer(object) if is_held else plan_cleanup.add_finalizer(object)


def waiting(object: FineTuneObject, observed: ObservedFineTune, settings: Settings, now: datetime) -> Decision | None:
    """What is done and told while something of the fine-tune has to end; None when it may go.

    So no attempt publishes what has been deleted. Snapshots go with their owner.
    """
    if naming.FINALIZER not in object.meta.finalizers:
        return None
    age = now - object.meta.deleted if object.meta.deleted is not None else timedelta()
    blocker = _blocker(object, observed)
    if blocker is not None and age <= timedelta(seconds=STOP_LIMIT_S):
        return _told(object, f"is deleted when {blocker} has ended", _stops(object, observed))
    runs = runs_to_delete(object, observed)
    cleanup = cleanup_job(object, observed)
    is_over = cleanup is not None and not cleanup.is_live
    if not runs or is_over or _unmakeable(observed) or age > timedelta(seconds=OUTPUT_LIMIT_S):
        return None
    assert object.spec is not None
    place = f"what its runs published at {object.spec.output.uri}"
    if cleanup is not None:
        return _told(object, f"is deleted when Job {cleanup.name} has deleted {place}")
    manifest = manifests_cleanup.job(object.meta, object.spec, runs, settings)
    ref = Ref(Kind.JOB, object.meta.namespace, manifest["metadata"]["name"])
    create = (*_stops(object, observed), Create(ref, manifest))
    return _told(object, f"is deleted when Job {ref.name} has deleted {place}", create)


def let_go(object: FineTuneObject, observed: ObservedFineTune) -> Plan[LoraFineTuneStatus]:
    """Lets the object go, and says what of its output stays although it was to be deleted."""
    if naming.FINALIZER not in object.meta.finalizers:
        return Plan()
    actions = [*_stops(object, observed)]
    runs = runs_to_delete(object, observed)
    cleanup = cleanup_job(object, observed)
    events: tuple[Event, ...] = ()
    if runs and (cleanup is None or cleanup.is_live or cleanup.has_failed):
        events = (_not_deleted(object, observed, runs, cleanup),)
    if cleanup is not None and (cleanup.is_live or not cleanup.has_failed) and not cleanup.is_deleting:
        actions.append(Delete(Ref(Kind.JOB, object.meta.namespace, cleanup.name), cleanup.uid))
    return Plan((*actions, plan_cleanup.remove_finalizer(object)), events=events)


def runs_to_delete(object: FineTuneObject, observed: ObservedFineTune) -> tuple[RunToDelete, ...]:
    """The runs whose output goes: those in the status at the present output, less those that other fine-tunes have."""
    if not deletes_output(object):
        return ()
    assert object.spec is not None
    adapters = artifact.adapter_prefix(object.spec.output.uri, "")
    found = {
        record.run_id: record.version
        for record in object.status.history
        if record.uri is None or record.uri.startswith(adapters)
    }
    if object.status.run is not None:
        found.setdefault(object.status.run.id, None)
    return tuple(RunToDelete(run_id, version) for run_id, version in found.items() if run_id not in observed.held)


def cleanup_job(object: FineTuneObject, observed: ObservedFineTune) -> Job | None:
    """The Job that deletes the output of this very object."""
    return observed.job(naming.cleanup_job_name(object.meta.name, object.meta.uid))


def _not_deleted(
    object: FineTuneObject, observed: ObservedFineTune, runs: tuple[RunToDelete, ...], cleanup: Job | None
) -> Event:
    assert object.spec is not None
    if cleanup is None and _unmakeable(observed):
        why = f"no Job can be made for it ({_unmakeable(observed)})"
    elif cleanup is None:
        why = f"no Job could be made for it within {OUTPUT_LIMIT_S} s"
    elif cleanup.is_live:
        why = f"Job {cleanup.name} had not ended after {OUTPUT_LIMIT_S} s"
    else:
        verdict = plan_attempt.verdict(cleanup, observed.pods_of(cleanup))
        why = f"Job {cleanup.name} failed: {verdict.message}"
    ids = ", ".join(run.run_id for run in runs)
    message = f"the output of runs {ids} at {object.spec.output.uri} stays, as {why}; delete it by hand"
    return Event(Reason.OUTPUT_NOT_DELETED, message[:1000], is_warning=True)


def _unmakeable(observed: ObservedFineTune) -> str | None:
    """Why the Job that deletes the output cannot be made at all."""
    return observed.conflict or observed.refused


def _told(object: FineTuneObject, words: str, actions: tuple[Action, ...] = ()) -> Decision:
    return Decision(
        Phase.DELETING,
        Reason.DELETING,
        f"{object.meta.name} {words}",
        object.status.model_copy(update={"progress": None}),
        actions,
        requeue_after_s=INTERVAL_S,
    )


def _stops(object: FineTuneObject, observed: ObservedFineTune) -> tuple[Action, ...]:
    """Deletions of all Jobs of attempts."""
    return tuple(
        Delete(Ref(Kind.JOB, object.meta.namespace, job.name), job.uid)
        for job in observed.jobs
        if job.owner_uid == object.meta.uid and not job.is_deleting
    )


def _blocker(object: FineTuneObject, observed: ObservedFineTune) -> str | None:
    """A Job or pod of an attempt that is still there."""
    cleanup = cleanup_job(object, observed)
    job = next((job for job in observed.jobs if job.owner_uid == object.meta.uid), None)
    if job is not None:
        return f"Job {job.name}"
    own = {pod.name for pod in observed.pods_of(cleanup)} if cleanup is not None else set()
    return next((f"pod {pod.name}" for pod in observed.pods if pod.is_live and pod.name not in own), None)
