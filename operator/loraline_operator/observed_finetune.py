"""The children of a fine-tune as the planner sees them, and their parsing from API objects.

What an attempt's end means is decided in `plan_attempt`; reading the cluster is not done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from loraline_api.conditions import Reason
from loraline_api.progress import Progress
from loraline_operator import naming, observed
from loraline_operator.actions import Manifest
from loraline_operator.observed_claims import Claim

IMAGE_REASONS = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
LOST_REASONS = frozenset({"Unknown", "ContainerStatusUnknown"})
"""Reasons of a container whose end nobody saw, as its node went down: containerd's (exit code 255) and the kubelet's
(137)."""

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
"""Number of a pod in an Indexed Job (Kubernetes: batch/v1)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt's Job."""

    name: str
    uid: str
    owner_uid: str | None
    run_id: str
    attempt: int
    settings_hash: str
    is_deleting: bool = False
    is_suspended: bool = False
    end: str | None = None
    """Reason of its Complete or Failed condition; None while it is not finished."""
    has_failed: bool = False
    message: str = ""
    ended_at: datetime | None = None
    start_time: datetime | None = None
    nodes: int = 1
    queue: str | None = None
    """Kueue's queue that it waits in or was let in by."""
    deadline_s: int | None = None

    @property
    def is_live(self) -> bool:
        """Whether it has or can have a running pod."""
        return self.end is None

    @property
    def lasted_s(self) -> float:
        """Seconds from its start to its end; 0 when either is not known."""
        if self.start_time is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.start_time).total_seconds()


@dataclass(frozen=True, slots=True)
class Stuck:
    """Why a pod does not start, in the words of Kubernetes."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One training pod."""

    name: str
    uid: str
    job_name: str
    phase: str
    is_deleting: bool = False
    ends_by: datetime | None = None
    """End of its grace period; None while nobody deletes it."""
    ip: str | None = None
    exit_code: int | None = None
    termination_message: str = ""
    is_out_of_memory: bool = False
    memory_limit: str | None = None
    """Most memory that its container may take; None is all that the node has."""
    is_lost: bool = False
    """Whether nobody saw its container end: its node went down."""
    stuck: Stuck | None = None
    created: datetime | None = None
    owner_uid: str | None = None
    index: int = 0
    """Its number among the nodes of its Job."""
    has_node: bool = True
    node: str = ""
    is_disrupted: bool = False
    """Whether Kubernetes says that it was or is being stopped from outside."""

    @property
    def is_live(self) -> bool:
        """Whether its container runs or may still run."""
        return self.phase not in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class GangService:
    """The headless Service of a run of several nodes."""

    name: str
    uid: str
    owner_uid: str | None
    run_id: str
    is_deleting: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ConfigMap with a run's inputs."""

    name: str
    uid: str
    owner_uid: str | None
    run_id: str


class DataProblem(StrEnum):
    """Why data of a configmap:// source cannot be had."""

    NO_CONFIG_MAP = "NoConfigMap"
    NO_KEY = "NoKey"


@dataclass(frozen=True, slots=True)
class Data:
    """The data of one configmap:// source: text, or base64 of bytes when `is_binary`."""

    content: str = field(repr=False)
    digest: str
    size: int
    is_binary: bool = False


@dataclass(frozen=True, slots=True)
class MissingData:
    """A configmap:// source that is not there; `keys` are those that the ConfigMap has."""

    problem: DataProblem
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedFineTune(observed.Observed):
    """All that belongs to one fine-tune at one moment."""

    jobs: tuple[Job, ...] = ()
    pods: tuple[Pod, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    data: Mapping[str, Data | MissingData] = field(default_factory=dict)
    """Data of configmap:// sources by part of the dataset (`train`, `eval`)."""
    progress: Progress | None = None
    """What the running attempt tells; None when it was not its turn to be asked, or it does not answer."""
    progress_in_s: float | None = None
    """Seconds until the running attempt is asked again; None when none runs."""
    stuck: Stuck | None = None
    """Why there is no running pod, as events say what no status does (a missing Secret, a quota)."""
    claims: tuple[Claim, ...] = ()
    """GPUs that the fine-tunes of the namespace hold or wait for; read only where the policy limits them."""
    services: tuple[GangService, ...] = ()
    stopped: str | None = None
    """Why a queue stopped a Job, in its own words."""
    held: frozenset[str] = frozenset()
    """Runs that other fine-tunes of the namespace have in their status; observed for a deletion with its output."""

    @property
    def has_children(self) -> bool:
        """Whether there is a child of any kind."""
        return any((self.jobs, self.pods, self.snapshots, self.services))

    def job(self, name: str) -> Job | None:
        """The Job of that name."""
        return next((job for job in self.jobs if job.name == name), None)

    def pods_of(self, job: Job) -> tuple[Pod, ...]:
        """The pods of this very Job; those of an earlier one of its name do not count."""
        return tuple(pod for pod in self.pods if pod.owner_uid == job.uid)


def job(manifest: Manifest) -> Job:
    """The Job in an API object."""
    meta = observed.meta(manifest)
    status = manifest.get("status") or {}
    ends = {c["type"]: c for c in status.get("conditions") or () if c["status"] == "True"}
    end = ends.get("Complete") or ends.get("Failed") or {}
    return Job(
        name=meta.name,
        uid=meta.uid,
        owner_uid=meta.owner_uid,
        run_id=meta.labels.get(naming.RUN_LABEL, ""),
        attempt=_number(meta.labels.get(naming.ATTEMPT_LABEL), 1),
        settings_hash=meta.labels.get(naming.SETTINGS_LABEL, ""),
        is_deleting=meta.is_deleting,
        is_suspended=bool(manifest["spec"].get("suspend")),
        end=(end.get("reason") or end["type"]) if end else None,
        has_failed="Failed" in ends and "Complete" not in ends,
        message=end.get("message", ""),
        ended_at=observed.time(end.get("lastTransitionTime")),
        start_time=observed.time(status.get("startTime")),
        nodes=manifest["spec"].get("completions") or 1,
        queue=meta.labels.get(naming.KUEUE_QUEUE_LABEL),
        deadline_s=manifest["spec"].get("activeDeadlineSeconds"),
    )


def pod(manifest: Manifest) -> Pod:
    """The pod in an API object."""
    meta = observed.meta(manifest)
    status = manifest.get("status") or {}
    containers = status.get("containerStatuses") or ()
    ended: Manifest = next((c["state"]["terminated"] for c in containers if "terminated" in (c.get("state") or {})), {})
    return Pod(
        name=meta.name,
        uid=meta.uid,
        job_name=meta.labels.get("batch.kubernetes.io/job-name", meta.labels.get("job-name", "")),
        phase=status.get("phase", "Pending"),
        is_deleting=meta.is_deleting,
        ends_by=meta.deleted,
        ip=status.get("podIP"),
        exit_code=ended.get("exitCode"),
        termination_message=ended.get("message", ""),
        is_out_of_memory=ended.get("reason") == "OOMKilled",
        memory_limit=_memory_limit(manifest.get("spec") or {}),
        is_lost=ended.get("reason") in LOST_REASONS,
        stuck=_stuck(status),
        created=meta.created,
        owner_uid=meta.owner_uid,
        node=manifest.get("spec", {}).get("nodeName") or "",
        index=_number(meta.annotations.get(INDEX_ANNOTATION), 0),
        has_node=bool(manifest.get("spec", {}).get("nodeName")) or status.get("phase") in ("Running", "Succeeded"),
        is_disrupted=any(
            c["type"] == "DisruptionTarget" and c["status"] == "True" for c in status.get("conditions") or ()
        ),
    )


def service(manifest: Manifest) -> GangService:
    """The Service in an API object."""
    meta = observed.meta(manifest)
    run_id = meta.labels.get(naming.RUN_LABEL, "")
    return GangService(meta.name, meta.uid, meta.owner_uid, run_id, meta.is_deleting)


def snapshot(manifest: Manifest) -> Snapshot:
    """The snapshot in a ConfigMap; its data is left aside."""
    meta = observed.meta(manifest)
    return Snapshot(meta.name, meta.uid, meta.owner_uid, meta.labels.get(naming.RUN_LABEL, ""))


def _memory_limit(spec: Manifest) -> str | None:
    """The memory limit of a pod's only container."""
    limits = (container.get("resources", {}).get("limits", {}) for container in spec.get("containers") or ())
    return next((limit["memory"] for limit in limits if "memory" in limit), None)


def _number(text: str | None, otherwise: int) -> int:
    """A number that a label or an annotation holds; anybody may have written something else there."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else otherwise


def _unscheduled(message: str) -> Stuck:
    """What the scheduler says: a claim that is missing or has no volume is not the nodes' fault."""
    claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', message)
    if claim is not None:
        return Stuck(Reason.CONFIG_MISSING, f"PersistentVolumeClaim {claim[1]} does not exist in this namespace")
    if "unbound immediate PersistentVolumeClaims" in message:
        return Stuck(Reason.CONFIG_MISSING, "a PersistentVolumeClaim of the pod has no volume yet")
    return Stuck(Reason.UNSCHEDULABLE, message.partition(" preemption: ")[0])


def _stuck(status: Manifest) -> Stuck | None:
    """Why a pod does not start, when its status says so."""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _unscheduled(condition.get("message", ""))
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in IMAGE_REASONS:
            return Stuck(Reason.IMAGE_PULL_FAILED, waiting.get("message") or waiting["reason"])
        if waiting.get("reason") in CONFIG_REASONS:
            return Stuck(Reason.CONFIG_MISSING, waiting.get("message") or waiting["reason"])
    return None
