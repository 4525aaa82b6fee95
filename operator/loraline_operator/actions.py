"""What a plan is made of: actions on the cluster as data, events, and the plan itself.

Nothing here executes anything; `loraline_operator.reconcile` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from loraline_api.model import StatusModel

Manifest = dict[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""

Status = TypeVar("Status", bound=StatusModel)


class Kind(StrEnum):
    """The kinds of object that the operator reads or writes."""

    FINE_TUNE = "LoraFineTune"
    ADAPTER_DEPLOYMENT = "AdapterDeployment"
    CONFIG_MAP = "ConfigMap"
    SERVICE = "Service"
    POD = "Pod"
    EVENT = "Event"
    JOB = "Job"
    DEPLOYMENT = "Deployment"
    LEASE = "Lease"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """One object of the cluster; also the key of the work queue."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object; when one of that name exists and has our owner, it is left as it is."""

    ref: Ref
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Patch:
    """Change an object by a JSON merge patch (RFC 7386); preconditions that are None are not checked."""

    ref: Ref
    patch: Manifest
    uid: str | None = None
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this very object (by uid), and what it owns in the background; one that is gone is fine."""

    ref: Ref
    uid: str


Action = Create | Patch | Delete


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event on the object that is reconciled; posted after its status was written, or after the actions of
    a plan that leaves the status alone."""

    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Plan(Generic[Status]):
    """What one reconcile does: the actions in order, then one status write if it differs, then the events.

    `status` None leaves the status alone; `requeue_after_s` None waits for the next event or resync.
    """

    actions: tuple[Action, ...] = ()
    status: Status | None = None
    events: tuple[Event, ...] = ()
    requeue_after_s: float | None = None
