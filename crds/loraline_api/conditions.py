"""Condition types, reasons, and the one way to set a condition.

Follows metav1.Condition: `lastTransitionTime` moves only when the status flips. `Reconciling` and `Stalled` follow
kstatus: they exist only while they are true.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from loraline_api.model import StatusModel


class ConditionStatus(StrEnum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionType(StrEnum):
    """Condition types of both kinds."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    # LoraFineTune
    SUSPENDED = "Suspended"
    RUNNING = "Running"
    EVALUATED = "Evaluated"
    ADAPTER_PUBLISHED = "AdapterPublished"
    COMPLETE = "Complete"
    FAILED = "Failed"
    # AdapterDeployment
    COMPATIBLE = "Compatible"
    LOADED = "Loaded"
    SELECTED = "Selected"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Machine-readable reasons of conditions and events; docs/troubleshooting.md has an entry for each."""

    # The object
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    NOT_ADMITTED = "NotAdmitted"
    POLICY_VIOLATION = "PolicyViolation"
    POLICY_INVALID = "PolicyInvalid"
    # Run control
    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    RESUMED = "Resumed"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    QUEUED = "Queued"
    PREEMPTED = "Preempted"
    GANG_TIMEOUT = "GangTimeout"
    NODE_LOST = "NodeLost"
    DELETING = "Deleting"
    OUTPUT_NOT_DELETED = "OutputNotDeleted"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    UNSCHEDULABLE = "Unschedulable"
    GPU_TOO_SMALL = "GpuTooSmall"
    WAITING_FOR_GPUS = "WaitingForGpus"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONFIG_MISSING = "ConfigMissing"
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    CHECKPOINT_UNAVAILABLE = "CheckpointUnavailable"
    # Outcomes of an attempt (loraline_api.outcome says which exit code means which)
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_INVALID = "DatasetInvalid"
    BASE_MODEL_NOT_FOUND = "BaseModelNotFound"
    BASE_MODEL_INVALID = "BaseModelInvalid"
    ACCESS_DENIED = "AccessDenied"
    BUCKET_NOT_FOUND = "BucketNotFound"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    EVAL_BELOW_THRESHOLD = "EvalBelowThreshold"
    LOSS_NOT_FINITE = "LossNotFinite"
    ADAPTER_UNCHANGED = "AdapterUnchanged"
    CUDA_OUT_OF_MEMORY = "CudaOutOfMemory"
    OUT_OF_MEMORY = "OutOfMemory"
    GPU_NOT_FOUND = "GpuNotFound"
    INTERRUPTED = "Interrupted"
    UNEXPECTED_ERROR = "UnexpectedError"
    # AdapterDeployment
    ROLLING_OUT = "RollingOut"
    WAITING_FOR_ADAPTER = "WaitingForAdapter"
    FINETUNE_NOT_FOUND = "FineTuneNotFound"
    CHECK_FAILED = "CheckFailed"
    NO_FREE_SLOT = "NoFreeSlot"
    TOO_MANY_ROUTES = "TooManyRoutes"
    REPLICAS_DISAGREE = "ReplicasDisagree"
    PODS_NOT_READY = "PodsNotReady"
    SERVING = "Serving"
    ADAPTER_REJECTED = "AdapterRejected"
    ADAPTER_NOT_FOUND = "AdapterNotFound"
    ADAPTER_INVALID = "AdapterInvalid"
    BASE_MODEL_MISMATCH = "BaseModelMismatch"
    RANK_EXCEEDS_SERVER = "RankExceedsServer"
    DIGEST_MISMATCH = "DigestMismatch"
    LOAD_REJECTED = "LoadRejected"
    PROBE_FAILED = "ProbeFailed"


class Condition(StatusModel):
    """One metav1.Condition."""

    type: str = Field(max_length=316, description="Type of the condition, in CamelCase.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(max_length=1024, description="Reason of the last transition, in CamelCase.")
    message: str = Field(max_length=32768, description="What happened, with the value, the limit and the next step.")
    last_transition_time: datetime = Field(description="When the status last changed.")
    observed_generation: int = Field(ge=0, description="metadata.generation that this condition speaks of.")


Conditions = tuple[Condition, ...]


def find(conditions: Conditions, kind: ConditionType) -> Condition | None:
    """The condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Conditions, kind: ConditionType) -> bool:
    """Whether the condition is there with status True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status is ConditionStatus.TRUE


def with_condition(
    conditions: Conditions,
    kind: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: str,
    *,
    now: datetime,
    generation: int,
) -> Conditions:
    """The conditions with this one set; its transition time moves only when its status flips."""
    old = find(conditions, kind)
    since = old.last_transition_time if old is not None and old.status is status else now
    new = Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if condition.type == kind else condition for condition in conditions)


def without_condition(conditions: Conditions, kind: ConditionType) -> Conditions:
    """The conditions less those of that type."""
    return tuple(condition for condition in conditions if condition.type != kind)
