"""The children of an AdapterDeployment as the planner sees them, and their parsing from API objects.

Reading the cluster and the pods' /state is not done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from loraline_api.preflight import Verdict, parse_verdict
from loraline_api.routing import TABLE_KEY, RoutingTable, SwitchboardState
from loraline_operator import naming, observed, observed_finetune
from loraline_operator.actions import Manifest
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import Job, Pod, Stuck

LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ ")
"""Time and level of a log line: a container's last words are the end of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """A Service, a ConfigMap or a Deployment: who owns it, and the hash of what we wrote last."""

    name: str
    uid: str
    resource_version: str
    owner_uid: str | None
    written_hash: str
    manifest: Manifest = field(repr=False)

    @property
    def owner(self) -> str:
        """Kind and name of the object that owns it; empty when nothing does."""
        owners = self.manifest["metadata"].get("ownerReferences") or ()
        return next((f"{owner['kind']} {owner['name']}" for owner in owners if owner.get("controller")), "")


@dataclass(frozen=True, slots=True)
class Workload(Child):
    """The Deployment and how far it is."""

    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    total_replicas: int = 0
    is_observed: bool = False
    """Whether the Deployment controller has seen its newest spec."""
    problem: str = ""
    """What the Deployment controller says it cannot do: a quota, a webhook."""

    def is_updating(self, replicas: int) -> bool:
        """Whether pods of an older template are being replaced, or surplus ones removed."""
        return not self.is_observed or self.updated_replicas < replicas or self.total_replicas > replicas


@dataclass(frozen=True, slots=True)
class RoutesMap(Child):
    """The ConfigMap with the routing table; `table` is None when it holds none that parses."""

    table: RoutingTable | None = None
    text: str = ""
    """The table as it is written: pods name a table by the digest of its text."""


@dataclass(frozen=True, slots=True)
class ServingPod:
    """A serving pod and what its switchboard tells; `state` is None when it does not answer."""

    name: str
    uid: str
    ip: str | None = None
    is_deleting: bool = False
    is_ready: bool = False
    template: str = ""
    """Hash of the pod template that it was made from."""
    table_annotation: str = ""
    stuck: Stuck | None = None
    crash: str = ""
    """Why a container ended last, while it waits for its next start."""
    state: SwitchboardState | None = None


@dataclass(frozen=True, slots=True)
class BaseMap(Child):
    """The ConfigMap that describes the base model; `digest` is that of the model."""

    digest: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """The Job that checks an adapter, and what came of it."""

    name: str
    uid: str
    owner_uid: str | None
    is_deleting: bool = False
    is_ended: bool = False
    ended_at: datetime | None = None
    verdict: Verdict | None = None
    problem: str = ""
    """Why it ended without a verdict, or does not start."""


@dataclass(frozen=True, slots=True)
class ObservedDeployment(observed.Observed):
    """All that belongs to one AdapterDeployment at one moment, and the fine-tunes that its routes name."""

    base: BaseMap | None = None
    card: str | None = None
    """The description of the base model that a pod gave, where the ConfigMap lacks it."""
    checks: tuple[Check, ...] = ()

    workload: Workload | None = None
    service: Child | None = None
    routes: RoutesMap | None = None
    pods: tuple[ServingPod, ...] = ()
    finetunes: Mapping[str, FineTuneObject] = field(default_factory=dict)
    """Fine-tunes of the namespace by name, those at least that the routes name or the selector matches."""


def child(manifest: Manifest) -> Child:
    """A Service, or any child of which only the owner and our hash matter."""
    meta = observed.meta(manifest)
    written = meta.annotations.get(naming.HASH_ANNOTATION, "")
    return Child(meta.name, meta.uid, meta.resource_version, meta.owner_uid, written, manifest)


def workload(manifest: Manifest) -> Workload:
    """The Deployment in an API object."""
    own = child(manifest)
    status = manifest.get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    failure = conditions.get("ReplicaFailure") or {}
    return Workload(
        name=own.name,
        uid=own.uid,
        resource_version=own.resource_version,
        owner_uid=own.owner_uid,
        written_hash=own.written_hash,
        manifest=manifest,
        replicas=manifest["spec"].get("replicas", 1),
        ready_replicas=status.get("readyReplicas", 0),
        updated_replicas=status.get("updatedReplicas", 0),
        total_replicas=status.get("replicas", 0),
        is_observed=status.get("observedGeneration", 0) >= observed.meta(manifest).generation,
        problem=failure.get("message", "") if failure.get("status") == "True" else "",
    )


def routes_map(manifest: Manifest) -> RoutesMap:
    """The ConfigMap with the routing table."""
    own = child(manifest)
    text = (manifest.get("data") or {}).get(TABLE_KEY, "")
    try:
        table = RoutingTable.model_validate_json(text)
    except ValidationError:
        table = None
    return RoutesMap(own.name, own.uid, own.resource_version, own.owner_uid, own.written_hash, manifest, table, text)


def base_map(manifest: Manifest) -> BaseMap:
    """The ConfigMap that describes the base model."""
    own = child(manifest)
    digest = observed.meta(manifest).annotations.get(naming.BASE_ANNOTATION, "")
    return BaseMap(own.name, own.uid, own.resource_version, own.owner_uid, own.written_hash, manifest, digest)


def checks(jobs: Sequence[Manifest], pods: Sequence[Manifest]) -> tuple[Check, ...]:
    """The Jobs that check adapters, with the words of their pods."""
    told = [observed_finetune.pod(manifest) for manifest in pods]
    return tuple(_check(observed_finetune.job(manifest), told) for manifest in jobs)


def _check(job: Job, pods: Sequence[Pod]) -> Check:
    own = [pod for pod in pods if pod.owner_uid == job.uid]
    verdicts = [verdict for pod in own if (verdict := parse_verdict(pod.termination_message)) is not None]
    stuck = next((pod.stuck for pod in own if pod.stuck is not None), None)
    codes = [f"exit code {pod.exit_code}" for pod in own if pod.exit_code]
    problem = stuck.message if stuck is not None else job.message or ", ".join(codes)
    return Check(
        name=job.name,
        uid=job.uid,
        owner_uid=job.owner_uid,
        is_deleting=job.is_deleting,
        is_ended=job.end is not None,
        ended_at=job.ended_at,
        verdict=verdicts[0] if verdicts else None,
        problem=problem,
    )


def served_base(pods: Sequence[ServingPod]) -> str | None:
    """Digest of the base model that the pods serve: that of the ready ones, or of all that answer while none is.

    None while they differ, as in the middle of a change of its revision.
    """
    alive = [pod for pod in pods if not pod.is_deleting and pod.state is not None]
    asked = [pod for pod in alive if pod.is_ready] or alive
    digests = {pod.state.base_digest for pod in asked if pod.state is not None}
    return digests.pop() if len(digests) == 1 else None


def pod(manifest: Manifest) -> ServingPod:
    """The serving pod in an API object; its state is added by `with_state`."""
    general = observed_finetune.pod(manifest)
    meta = observed.meta(manifest)
    status = manifest.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    return ServingPod(
        name=general.name,
        uid=general.uid,
        ip=general.ip,
        is_deleting=general.is_deleting,
        is_ready=conditions.get("Ready") == "True",
        template=meta.labels.get("pod-template-hash", ""),
        table_annotation=meta.annotations.get(naming.TABLE_ANNOTATION, ""),
        stuck=general.stuck,
        crash=_crash(status),
    )


def with_state(pod: ServingPod, state: SwitchboardState | None) -> ServingPod:
    """The pod with what its switchboard tells."""
    return replace(pod, state=state)


def _crash(status: Manifest) -> str:
    """Name, exit code and last words of the first container that waits after a crash.

    The kubelet shows such a container as waiting in CrashLoopBackOff, or for a while as terminated.
    """
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = container.get("state") or {}
        ended = state.get("terminated") or {}
        if (state.get("waiting") or {}).get("reason") == "CrashLoopBackOff":
            ended = (container.get("lastState") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            words = " ".join(str(ended.get("message") or ended.get("reason") or "").split())
            last = LOG_PREFIX.sub("", words)[-400:]
            return f"container {container['name']} exited with code {ended['exitCode']}: {last}"
    return ""
