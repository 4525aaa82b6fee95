"""What to do about a fine-tune: from the object and its children to actions, status and events.

Pure: reads no clock and no cluster. A live attempt is told in `plan_watch`, how one ended is judged in `plan_attempt`,
several nodes are in `plan_gang`, deletion is in `plan_deletion`.

    no run -> snapshot + Job -> pod pending -> running -> Job finished -> Succeeded | Failed
       ^        |  (edit, suspend: Job deleted, nothing new before its pods are gone)   |
       +--------+------------------------ retry: next attempt, later -------------------+
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from loraline_api import conditions as api_conditions
from loraline_api import run as api_run
from loraline_api.conditions import ConditionType, Reason
from loraline_api.finetune_status import LoraFineTuneStatus, RunRecord, RunRef
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_api.run import Run
from loraline_operator import (
    manifests_training,
    naming,
    plan_admission,
    plan_attempt,
    plan_checkpoint,
    plan_cleanup,
    plan_conditions,
    plan_data,
    plan_defaults,
    plan_deletion,
    plan_gang,
    plan_result,
    plan_watch,
)
from loraline_operator.actions import Action, Create, Delete, Kind, Plan, Ref
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import Data, Job, ObservedFineTune
from loraline_operator.plan_conditions import Phase
from loraline_operator.plan_decision import Decision, Look
from loraline_operator.settings import Settings

BLOCKED_INTERVAL_S = 5.0
"""Time between two looks while an earlier pod ends; its events come sooner."""

NOT_ADMITTED_INTERVAL_S = 60.0
"""Time between two attempts to make a child that a quota keeps out: that it has room again is no event of ours."""

CONFLICT_INTERVAL_S = 15.0


def plan(
    object: FineTuneObject,
    observed: ObservedFineTune,
    settings: Settings,
    now: datetime,
    policy: Policy = ALLOW_ALL,
) -> Plan[LoraFineTuneStatus]:
    """The plan for a fine-tune; applied to its own result it is empty."""
    now = now.replace(microsecond=0)
    if object.meta.is_deleting:
        decision = plan_deletion.waiting(object, observed, settings, now)
        return _told(object, decision, now) if decision else plan_deletion.let_go(object, observed)
    hold = plan_deletion.hold(object)
    if hold is not None:
        return Plan((hold,), requeue_after_s=0)
    if object.spec is None:
        problem = f"{object.spec_problem}; mend the spec"
        decision = Decision(Phase.PENDING, Reason.INVALID_SPEC, problem, object.status, is_stalled=True)
    else:
        settings_hash = api_run.settings_hash(object.spec, naming.passed_labels(object.meta.labels))
        look = plan_admission.with_defaults(Look(object, object.spec, observed, settings, now, settings_hash, policy))
        decision = plan_gang.with_services(look, _decide(look))
    return _told(object, decision, now)


def _told(object: FineTuneObject, decision: Decision, now: datetime) -> Plan[LoraFineTuneStatus]:
    """The plan of a decision: its status in full words, and the event when something is news."""
    generation = object.meta.generation
    tell = plan_conditions.deleting if decision.phase is Phase.DELETING else plan_conditions.conditions
    conditions = tell(
        decision.status,
        decision.phase,
        decision.reason,
        decision.message,
        is_stalled=decision.is_stalled,
        now=now,
        generation=generation,
    )
    changes = {
        "observed_generation": generation,
        "phase": str(decision.phase),
        "conditions": list(conditions),
        "display": plan_conditions.display(decision.phase, decision.reason, decision.status.progress),
        "waiting": decision.status.waiting if decision.reason is Reason.WAITING_FOR_GPUS else None,
    }
    return Plan(
        decision.actions,
        decision.status.model_copy(update=changes),
        (
            *plan_conditions.events(object.status, decision.reason, decision.message),
            *plan_checkpoint.events(object.status, decision.status),
        ),
        decision.requeue_after_s,
    )


def _kept_out(look: Look) -> Decision | None:
    """What is told of a child that the last write could not make."""
    if look.observed.conflict is not None:
        return _conflict(look, look.observed.conflict)
    kept_out = look.observed.kept_out("fine-tune")
    if kept_out is not None:
        is_final = kept_out[0] is Reason.INVALID_SPEC
        wait_s = None if is_final else NOT_ADMITTED_INTERVAL_S
        return Decision(Phase.PENDING, *kept_out, look.status, is_stalled=is_final, requeue_after_s=wait_s)
    return None


def _decide(look: Look) -> Decision:
    kept = _kept_out(look)
    if kept is not None:
        return kept
    data, problem = plan_data.resolve(look.spec, look.observed.data)
    current = look.status.run
    restart = look.object.meta.annotations.get(naming.RESTART_ANNOTATION)
    if problem is not None:
        is_same_recipe = current is not None and current.recipe_hash == _resolved(look, {}, restart).recipe_hash
        if current is None or not is_same_recipe:
            return _without_data(look, problem)
        return _current(look, current, None, data)  # a run that has begun needs nothing but its snapshot
    wanted = _resolved(look, {part: item.digest for part, item in data.items()}, restart)
    look = replace(look, object=replace(look.object, status=_answering(look.status, restart)))
    if current is None or current.id != wanted.id:
        return _turn(look, wanted, data)
    return _current(look, current, wanted, data)


def _resolved(look: Look, digests: Mapping[str, str], restart: str | None) -> Run:
    meta = look.object.meta
    return api_run.resolve(meta.name, meta.namespace, look.spec, data_digests=digests, restart=restart)


def _answering(status: LoraFineTuneStatus, restart: str | None) -> LoraFineTuneStatus:
    return status if status.restarted_by == restart else status.model_copy(update={"restarted_by": restart})


def _conflict(look: Look, name: str) -> Decision:
    message = f"{name} exists and belongs to something else; delete it or rename this fine-tune"
    return Decision(
        Phase.PENDING,
        Reason.NAME_CONFLICT,
        message,
        look.status,
        requeue_after_s=CONFLICT_INTERVAL_S,
        is_stalled=True,
    )


def _without_data(look: Look, problem: plan_data.Problem) -> Decision:
    """The data of a recipe that has not run yet is missing: what ran for another recipe ends, and this one waits."""
    look = plan_admission.estimated(look)
    interval = look.settings.dataset_interval_s
    is_stalled = problem.reason is Reason.DATASET_INVALID
    return Decision(
        Phase.PENDING,
        problem.reason,
        problem.message,
        look.status,
        _stray_deletions(look, None),
        requeue_after_s=interval,
        is_stalled=is_stalled,
    )


def _turn(look: Look, wanted: Run, data: dict[str, Data]) -> Decision:
    """Other inputs than before: an earlier run's result, or a run of their own."""
    record = next((record for record in look.status.history if record.run_id == wanted.id), None)
    jobs = [job for job in look.jobs if job.run_id == wanted.id]
    same = [job.attempt for job in jobs if job.settings_hash == look.settings_hash]
    if record is not None and (record.succeeded or record.settings_hash == look.settings_hash):
        last = max((job.attempt for job in jobs), default=1)
        run = RunRef(
            id=wanted.id,
            recipe_hash=wanted.recipe_hash,
            attempt=last,
            settings_hash=record.settings_hash,
            completion_time=record.completion_time,
        )
        status = plan_result.with_record(look.status, run, record)
        return _finished(replace(look, object=replace(look.object, status=status)), run)
    attempt = max(same) if same else 1 + max((job.attempt for job in jobs), default=0)
    run = RunRef(
        id=wanted.id,
        recipe_hash=wanted.recipe_hash,
        attempt=attempt,
        settings_hash=look.settings_hash,
        start_time=look.now,
    )
    status = look.status.model_copy(update={"run": run, "progress": None, "evaluation": [], "samples": []})
    return _current(replace(look, object=replace(look.object, status=status)), run, wanted, data)


def _current(look: Look, run: RunRef, wanted: Run | None, data: dict[str, Data]) -> Decision:
    """The run that the inputs ask for; `wanted` is None when only its snapshot knows them."""
    if run.completion_time is not None:
        record = _record(look, run)
        if record is None or record.succeeded or run.settings_hash == look.settings_hash:
            return _finished(look, run)
        run = RunRef(
            id=run.id,
            recipe_hash=run.recipe_hash,
            attempt=run.attempt + 1,
            settings_hash=look.settings_hash,
            start_time=look.now,
        )
    job = look.observed.job(naming.job_name(look.object.meta.name, run.id, run.attempt))
    if job is not None and job.owner_uid == look.object.meta.uid and not job.is_live:
        return _ended(look, run, job)
    if look.spec.suspend:
        return _suspended(look, run)
    if job is None or job.owner_uid != look.object.meta.uid:
        return _start(look, run, wanted, data)
    is_running = len({pod.index for pod in look.observed.pods_of(job) if pod.phase == "Running"}) == job.nodes
    if job.settings_hash != look.settings_hash and not is_running:
        message = f"run {run.id}: Job {job.name} is made anew with the changed settings"
        status = _with_run(look, run, job_name=None)
        deletions = _stray_deletions(look, None)
        return Decision(Phase.PENDING, Reason.PENDING, message, status, deletions, requeue_after_s=BLOCKED_INTERVAL_S)
    return plan_watch.watch(look, run, job, _stray_deletions(look, job.name))


def _suspended(look: Look, run: RunRef) -> Decision:
    look = plan_admission.estimated(look)
    message = f"spec.suspend is true; run {run.id} goes on when it is false"
    status = _with_run(look, run.model_copy(update={"admitted": None}), job_name=None)
    status = status.model_copy(update={"progress": None})
    return Decision(Phase.SUSPENDED, Reason.SUSPENDED, message, status, _stray_deletions(look, None))


def _start(look: Look, run: RunRef, wanted: Run | None, data: dict[str, Data]) -> Decision:
    """The first or next attempt: if the policy lets it, not before its time, and not while a pod of another lives."""
    look = plan_admission.estimated(look)
    status = _with_run(look, run, job_name=None).model_copy(update={"progress": None})
    if run.retry_time is not None and run.retry_time > look.now:
        wait_s = (run.retry_time - look.now).total_seconds()
        ready = api_conditions.find(tuple(look.status.conditions), ConditionType.READY)
        reason, message = Reason.RETRYING, f"attempt {run.attempt} starts at {run.retry_time:%H:%M:%S} UTC"
        if ready is not None and ready.reason in (Reason.RETRYING, Reason.GANG_TIMEOUT):
            reason, message = Reason(ready.reason), ready.message
        actions = _stray_deletions(look, None)
        return Decision(Phase.PENDING, reason, message, status, actions, requeue_after_s=wait_s)
    deletions = _stray_deletions(look, None)
    refused = plan_admission.refused(look, run, status, deletions)
    if refused is not None:
        return refused
    blocker = _blocker(look)
    if blocker is not None:
        silence = plan_watch.lost(look.observed.pods, look.now)
        reason, message = Reason.PENDING, f"run {run.id} starts when {blocker} has ended"
        if silence is not None:
            reason, message = Reason.NODE_LOST, f"run {run.id}: {silence}"
        return Decision(Phase.PENDING, reason, message, status, deletions, requeue_after_s=BLOCKED_INTERVAL_S)
    return _create(look, run, wanted, data)


def _create(look: Look, run: RunRef, wanted: Run | None, data: dict[str, Data]) -> Decision:
    meta = look.object.meta
    actions: list[Action] = []
    has_snapshot = any(s.run_id == run.id and s.owner_uid == meta.uid for s in look.observed.snapshots)
    if not has_snapshot:
        if wanted is None:
            problem = plan_data.resolve(look.spec, look.observed.data)[1]
            assert problem is not None  # `wanted` is None only for missing data
            return _without_data(look, problem)
        ref = Ref(Kind.CONFIG_MAP, meta.namespace, naming.snapshot_name(meta.name, run.id))
        actions.append(Create(ref, manifests_training.snapshot(meta, wanted, data)))
    name = naming.job_name(meta.name, run.id, run.attempt)
    manifest = manifests_training.job(
        plan_defaults.with_queue(meta, look.policy),
        look.spec,
        run_id=run.id,
        attempt=run.attempt,
        settings_hash=look.settings_hash,
        settings=look.settings,
    )
    actions.append(Create(Ref(Kind.JOB, meta.namespace, name), manifest))
    run = run.model_copy(update={"retry_time": None, "settings_hash": look.settings_hash, "admitted": True})
    message = f"run {run.id}, attempt {run.attempt}: Job {name} has no pod yet"
    status = _with_run(look, run, job_name=name).model_copy(update={"progress": None})
    own = tuple(job for job in look.jobs if job.run_id == run.id)
    actions += plan_cleanup.earlier_attempts(own, meta.namespace, run.attempt)
    interval = plan_watch.PENDING_INTERVAL_S
    return Decision(Phase.PENDING, Reason.PENDING, message, status, tuple(actions), requeue_after_s=interval)


def _ended(look: Look, run: RunRef, job: Job) -> Decision:
    """The attempt's Job has finished: the result, or the next attempt, or the end."""
    verdict = plan_attempt.verdict(job, look.observed.pods_of(job))
    known = {"job_name": job.name, "settings_hash": job.settings_hash, "retry_time": None, "admitted": True}
    run = run.model_copy(update=known)  # the policy let its Job start, even if no status came to say so
    if verdict.reason is Reason.DEADLINE_EXCEEDED and job.deadline_s == look.spec.active_deadline_seconds:
        run = run.model_copy(update={"settings_hash": look.settings_hash})  # its deadline was edited while it ran
    if verdict.succeeded:
        status = plan_result.succeeded(look.status, run, verdict, look.spec.adapter.rank, look.now)
        return _result(look, status)
    failures = run.failures + (1 if verdict.is_counted else 0)
    run = run.model_copy(update={"failures": failures})
    if verdict.can_retry and failures <= look.spec.retries:
        retry_time = look.now + plan_attempt.retry_delay(run.attempt, look.settings.first_retry_delay_s, job.lasted_s)
        message = (
            f"attempt {run.attempt} of run {run.id} ended with {verdict.reason}: {verdict.message}; "
            f"attempt {run.attempt + 1} starts at {retry_time:%H:%M:%S} UTC"
        )
        run = run.model_copy(update={"attempt": run.attempt + 1, "retry_time": retry_time, "job_name": None})
        status = look.status.model_copy(update={"run": run, "progress": None})
        wait_s = (retry_time - look.now) / timedelta(seconds=1)
        return Decision(
            Phase.PENDING, Reason.RETRYING, message, status, _stray_deletions(look, None), requeue_after_s=wait_s
        )
    status = plan_result.failed(look.status, run, verdict, look.spec.retries, look.now)
    return _result(look, status)


def _result(look: Look, status: LoraFineTuneStatus) -> Decision:
    """A run that ends with this pass: its children stay until its end is written, as they alone tell it till then."""
    assert status.run is not None
    decision = _finished(replace(look, object=replace(look.object, status=status)), status.run)
    return replace(decision, actions=_stray_deletions(look, None), requeue_after_s=0)


def _finished(look: Look, run: RunRef) -> Decision:
    """A run that is over: its result as recorded, and the tidying of what its TTL or the history leaves behind."""
    record = _record(look, run)
    if record is None:
        message = "status.history has lost the record of this run; annotate loraline.dev/restart to run it again"
        return Decision(Phase.FAILED, Reason.UNEXPECTED_ERROR, message, look.status, is_stalled=True)
    phase = Phase.SUCCEEDED if record.succeeded else Phase.FAILED
    tidying, wait_s = plan_cleanup.tidy(look.object, look.spec, look.observed, look.now)
    actions = (*_stray_deletions(look, None), *tidying)
    return Decision(
        phase,
        Reason(record.reason),
        record.message,
        look.status,
        actions,
        requeue_after_s=wait_s,
        is_stalled=not record.succeeded,
    )


def _record(look: Look, run: RunRef) -> RunRecord | None:
    return next((record for record in look.status.history if record.run_id == run.id), None)


def _with_run(look: Look, run: RunRef, *, job_name: str | None) -> LoraFineTuneStatus:
    return look.status.model_copy(update={"run": run.model_copy(update={"job_name": job_name})})


def _stray_deletions(look: Look, keep: str | None) -> tuple[Action, ...]:
    """Deletions of every unfinished Job but the one to keep: at most one attempt lives."""
    return tuple(
        Delete(Ref(Kind.JOB, look.object.meta.namespace, job.name), job.uid)
        for job in look.jobs
        if job.is_live and not job.is_deleting and job.name != keep
    )


def _blocker(look: Look) -> str | None:
    """A Job or pod of this fine-tune that may still run, whoever owns it."""
    for job in look.jobs:
        if job.is_live:
            return f"Job {job.name}"
    for pod in look.observed.pods:
        if pod.is_live:
            return f"pod {pod.name}"
    return None
