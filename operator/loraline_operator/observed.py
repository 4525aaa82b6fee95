"""The custom objects as the planners see them: metadata, the parsed spec or why it does not parse, and the status.

Children are in `observed_finetune` and `observed_deployment`; reading them from the cluster is not done here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from loraline_api.conditions import Reason
from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_api.model import UNSEEN_GENERATION, ApiModel, StatusModel
from loraline_operator.actions import Kind, Manifest, Ref

SpecT = TypeVar("SpecT", bound=ApiModel)
StatusT = TypeVar("StatusT", bound=StatusModel)


QUOTA_REMEDY = "it is tried again: raise that limit, or free what counts against it"


@dataclass(frozen=True, slots=True)
class Meta:
    """The parts of an object's metadata that decide something."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    generation: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    finalizers: tuple[str, ...]
    owner_uid: str | None
    created: datetime | None
    deleted: datetime | None

    @property
    def is_deleting(self) -> bool:
        """Whether somebody asked for its deletion."""
        return self.deleted is not None


@dataclass(frozen=True, slots=True)
class CustomObject(Generic[SpecT, StatusT]):
    """An object of one of our kinds. `spec` is None when it does not parse; then `spec_problem` says why."""

    kind: Kind
    meta: Meta
    spec: SpecT | None
    spec_problem: str
    status: StatusT

    @property
    def ref(self) -> Ref:
        """The object's name in the cluster."""
        return Ref(self.kind, self.meta.namespace, self.meta.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What the last write of a pass found out about a child that it could not make; of both kinds."""

    conflict: str | None = None
    """A child's name that belongs to something else."""
    refused: str | None = None
    """Why the API server does not take a child, in its own words."""
    not_admitted: str | None = None
    """Why a quota of the namespace or an admission webhook does not let a child in, in its own words."""

    @property
    def has_children(self) -> bool:
        """Whether anything is there that an earlier pass may have made; True where that is not known."""
        return True

    def kept_out(self, whose: str) -> tuple[Reason, str] | None:
        """Reason and message for a child that the API server did not take or let in."""
        if self.refused is not None:
            return Reason.INVALID_SPEC, f"a child of this {whose} is refused: {self.refused}; mend the spec"
        if self.not_admitted is not None:
            return Reason.NOT_ADMITTED, f"a child of this {whose} is not let in: {self.not_admitted}; {QUOTA_REMEDY}"
        return None


FineTuneObject = CustomObject[LoraFineTuneSpec, LoraFineTuneStatus]
DeploymentObject = CustomObject[AdapterDeploymentSpec, AdapterDeploymentStatus]


def finetune(manifest: Manifest, before: FineTuneObject | None = None) -> FineTuneObject:
    """The LoraFineTune in an API object; `before` is an earlier state of it, whose spec is not parsed again."""
    return _object(Kind.FINE_TUNE, LoraFineTuneSpec, LoraFineTuneStatus, manifest, before)


def deployment(manifest: Manifest, before: DeploymentObject | None = None) -> DeploymentObject:
    """The AdapterDeployment in an API object; `before` as in `finetune`."""
    return _object(Kind.ADAPTER_DEPLOYMENT, AdapterDeploymentSpec, AdapterDeploymentStatus, manifest, before)


def _object(
    kind: Kind,
    spec_model: type[SpecT],
    status_model: type[StatusT],
    manifest: Manifest,
    before: CustomObject[SpecT, StatusT] | None,
) -> CustomObject[SpecT, StatusT]:
    own, status = meta(manifest), _status(status_model, manifest)
    if before is not None and (before.meta.uid, before.meta.generation) == (own.uid, own.generation):
        return CustomObject(kind, own, before.spec, before.spec_problem, status)
    return CustomObject(kind, own, *_parsed(spec_model, manifest.get("spec") or {}), status)


def news(kind: Kind, body: Mapping[str, Any]) -> Hashable:
    """What AdapterDeployments look at in a fine-tune: progress alone wakes none of them. None for other kinds."""
    if kind is not Kind.FINE_TUNE:
        return None
    metadata, status = body["metadata"], body.get("status") or {}
    adapter = status.get("adapter") or {}
    failed = [
        c.get("reason") for c in status.get("conditions") or () if c["type"] == "Failed" and c["status"] == "True"
    ]
    return (
        metadata["uid"],
        tuple(sorted((metadata.get("labels") or {}).items())),
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        status.get("observedGeneration"),
        (adapter.get("version"), adapter.get("uri"), adapter.get("rank")),
        tuple(failed),
    )


def is_unseen(body: Mapping[str, Any]) -> bool:
    """Whether the status is none, or the one that the API server gives to a new object (`loraline_api.crd.UNSEEN`)."""
    status = body.get("status") or {}
    return bool(status.get("observedGeneration", UNSEEN_GENERATION) == UNSEEN_GENERATION)


def meta(manifest: Manifest) -> Meta:
    """The metadata of any API object."""
    metadata = manifest["metadata"]
    owners = [owner["uid"] for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    return Meta(
        name=metadata["name"],
        namespace=metadata.get("namespace", ""),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata.get("generation", 0),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        finalizers=tuple(metadata.get("finalizers") or ()),
        owner_uid=owners[0] if owners else None,
        created=time(metadata.get("creationTimestamp")),
        deleted=time(metadata.get("deletionTimestamp")),
    )


def time(text: str | None) -> datetime | None:
    """A time of the Kubernetes API."""
    return datetime.fromisoformat(text) if text else None


def _parsed(model: type[SpecT], value: Manifest) -> tuple[SpecT | None, str]:
    try:
        return model.model_validate(value), ""
    except ValidationError as error:
        return None, "; ".join(_sentence(problem) for problem in error.errors()[:5])


def _sentence(problem: object) -> str:
    if not isinstance(problem, Mapping):  # pydantic's ErrorDetails is a TypedDict
        return str(problem)
    path = ".".join(str(part) for part in problem["loc"])
    return f"spec.{path} is {problem['input']!r:.200}: {problem['msg']}"


def _status(model: type[StatusT], manifest: Manifest) -> StatusT:
    """The status, or an empty one when what is stored does not parse: it is observed anew."""
    try:
        return model.model_validate(manifest.get("status") or {})
    except ValidationError:
        return model()
