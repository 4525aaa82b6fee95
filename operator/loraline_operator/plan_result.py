"""What a verdict leaves in the status of a fine-tune: the adapter, the evaluation, and a record in the history.

Conditions are made from it in `plan_conditions`.
"""

from __future__ import annotations

from datetime import datetime

from loraline_api.conditions import Reason
from loraline_api.finetune_status import MAX_HISTORY, AdapterRef, LoraFineTuneStatus, RunRecord, RunRef
from loraline_api.outcome import MAX_MESSAGE_CHARS
from loraline_api.progress import Progress, Stage
from loraline_operator.plan_attempt import Verdict

REMEDIES = {
    Reason.UNSCHEDULABLE: "change spec.compute, or add nodes that fit",
    Reason.IMAGE_PULL_FAILED: "check the trainer image of the operator's settings and its pull secrets",
    Reason.CONFIG_MISSING: "create what is missing; the pod starts by itself then",
}


def remedy(reason: Reason) -> str:
    """What to do about a pod that does not start, as the end of a sentence."""
    return f"; {REMEDIES[reason]}" if reason in REMEDIES else ""


def succeeded(
    status: LoraFineTuneStatus, run: RunRef, verdict: Verdict, rank: int, now: datetime
) -> LoraFineTuneStatus:
    """The status after a run that published an adapter."""
    result = verdict.outcome
    assert result is not None
    version, uri = result.version, result.uri
    assert version is not None
    assert uri is not None
    progress = Progress(
        stage=Stage.FINISHED,
        percent=100,
        step=result.steps,
        total_steps=result.steps,
        loss=result.train_loss,
        tokens_per_second=result.tokens_per_second,
        checkpoint=result.checkpoint,
    )
    record = RunRecord(
        run_id=run.id,
        succeeded=True,
        version=version,
        uri=uri,
        rank=rank,
        reason=verdict.reason,
        message=verdict.message[:MAX_MESSAGE_CHARS],
        settings_hash=run.settings_hash,
        metrics=result.metrics,
        completion_time=now,
    )
    return _recorded(status, run, record).model_copy(
        update={
            "adapter": AdapterRef(version=version, uri=uri, run_id=run.id, rank=rank),
            "progress": progress,
            "samples": result.samples,
        }
    )


def failed(
    status: LoraFineTuneStatus, run: RunRef, verdict: Verdict, retries: int, now: datetime
) -> LoraFineTuneStatus:
    """The status after a run that is not tried again; the adapter of an earlier run stays."""
    reason, message = verdict.reason, verdict.message
    if verdict.can_retry and retries:
        reason = Reason.BACKOFF_LIMIT_EXCEEDED
        message = (
            f"{run.failures} attempts failed and spec.retries is {retries}; the last ended with {verdict.reason}: "
            f"{verdict.message}"
        )
    record = RunRecord(
        run_id=run.id,
        succeeded=False,
        reason=reason,
        message=message[:MAX_MESSAGE_CHARS],
        settings_hash=run.settings_hash,
        metrics=verdict.outcome.metrics if verdict.outcome is not None else [],
        completion_time=now,
    )
    samples = verdict.outcome.samples if verdict.outcome is not None else []
    return _recorded(status, run, record).model_copy(update={"samples": samples})


def with_record(status: LoraFineTuneStatus, run: RunRef, record: RunRecord) -> LoraFineTuneStatus:
    """The status after going back to the inputs of an earlier run."""
    changes: dict[str, object] = {"run": run, "progress": None, "evaluation": record.metrics, "samples": []}
    if record.succeeded and record.version is not None and record.uri is not None:
        changes["adapter"] = AdapterRef(
            version=record.version, uri=record.uri, run_id=record.run_id, rank=record.rank or 1
        )
    return status.model_copy(update=changes)


def _recorded(status: LoraFineTuneStatus, run: RunRef, record: RunRecord) -> LoraFineTuneStatus:
    """The status with the run ended and its record put first, in place of an earlier one of the same run."""
    others = [old for old in status.history if old.run_id != record.run_id]
    return status.model_copy(
        update={
            "run": run.model_copy(update={"completion_time": record.completion_time}),
            "evaluation": record.metrics,
            "history": [record, *others][:MAX_HISTORY],
        }
    )
