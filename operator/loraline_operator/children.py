"""The children of fine-tunes as the watches showed them last: what most passes look at, without a request.

A copy is late by nature. So it never goes back in time (each object and each list has its version), it holds what this
process wrote itself, and whoever is about to act brings it up to date first (`refresh`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from loraline_operator import naming, observed_finetune
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.objects import version_of
from loraline_operator.observed_finetune import GangService, Job, Pod, Snapshot
from loraline_operator.reflector import Selection

ChildT = TypeVar("ChildT")


class Changed(Protocol):
    """What is told of news."""

    def __call__(self, ref: Ref, *, version: int | None = None) -> None:
        """Something happened to an object, or to that child of it that is in this version."""


@dataclass(slots=True)
class Family(Generic[ChildT]):
    """The children of one kind that one fine-tune has."""

    items: dict[str, tuple[int, ChildT]] = field(default_factory=dict)
    """Version and child by name."""

    floor: int = 0
    """Version of the last list: what is older and not here is gone."""


class Copies(Generic[ChildT]):
    """Copies of one kind of child, by fine-tune; a sink of a reflector."""

    def __init__(self, selection: Selection, parse: Callable[[Manifest], ChildT], changed: Changed) -> None:
        self.selection = selection
        self._parse = parse
        self._changed = changed
        self._families: dict[tuple[str, str], Family[ChildT]] = {}
        self._owners: dict[tuple[str, str], str] = {}

    def owner_of(self, namespace: str, name: str) -> Ref | None:
        """The fine-tune that has a child of that name."""
        owner = self._owners.get((namespace, name))
        return Ref(Kind.FINE_TUNE, namespace, owner) if owner is not None else None

    def of(self, namespace: str, finetune: str) -> tuple[ChildT, ...]:
        """The children of a fine-tune, sorted by name."""
        family = self._families.get((namespace, finetune))
        return tuple(child for _, (_, child) in sorted(family.items.items())) if family is not None else ()

    def seen(self, manifest: Manifest) -> None:
        """The child is there."""
        owner = _owner(manifest)
        if owner is not None and self.put(manifest):
            self._tell(owner, manifest["metadata"]["name"], version_of(manifest))

    def put(self, manifest: Manifest) -> bool:
        """Takes a state of a child over; False when it is no news."""
        owner, version = _owner(manifest), version_of(manifest)
        if owner is None or owner.kind is not Kind.FINE_TUNE:
            return owner is not None  # a child of an AdapterDeployment is not kept
        family = self._families.setdefault((owner.namespace, owner.name), Family())
        known = family.items.get(manifest["metadata"]["name"])
        if version <= (known[0] if known is not None else family.floor):
            return False
        family.items[manifest["metadata"]["name"]] = (version, self._parse(manifest))
        self._owners[owner.namespace, manifest["metadata"]["name"]] = owner.name
        return True

    def gone(self, manifest: Manifest) -> None:
        """The child is there no longer."""
        owner, version = _owner(manifest), version_of(manifest)
        if owner is None:
            return
        family = self._families.get((owner.namespace, owner.name))
        name = manifest["metadata"]["name"]
        if family is not None and name in family.items and family.items[name][0] <= version:
            self._drop(owner.namespace, family, name)
            family.floor = max(family.floor, version)
            if not family.items:
                del self._families[owner.namespace, owner.name]
        self._tell(owner, name, version)

    def keep_only(self, namespace: str | None, names: set[tuple[str, str]], version: int) -> None:
        """At that version these were all."""
        for (place, finetune), family in list(self._families.items()):
            if namespace in (None, place):
                here = {name for name in family.items if (place, name) in names}
                if self._forget(place, family, here, version):
                    self._changed(Ref(Kind.FINE_TUNE, place, finetune))
                if not family.items:
                    del self._families[place, finetune]

    def _tell(self, owner: Ref, name: str, version: int) -> None:
        """Tells the owner, and whoever waits for the child itself."""
        self._changed(owner, version=version)
        self._changed(Ref(self.selection.kind, owner.namespace, name))

    def listed(self, owner: Ref, manifests: Sequence[Manifest], version: int) -> None:
        """At that version these were all children of this fine-tune."""
        for manifest in manifests:
            self.put(manifest)
        family = self._families.setdefault((owner.namespace, owner.name), Family())
        self._forget(owner.namespace, family, {manifest["metadata"]["name"] for manifest in manifests}, version)

    def _forget(self, namespace: str, family: Family[ChildT], names: set[str], version: int) -> bool:
        """Forgets all but these names, unless a newer state of them is known."""
        ghosts = [name for name, (known, _) in family.items.items() if name not in names and known <= version]
        for name in ghosts:
            self._drop(namespace, family, name)
        family.floor = max(family.floor, version)
        return bool(ghosts)

    def _drop(self, namespace: str, family: Family[ChildT], name: str) -> None:
        del family.items[name]
        self._owners.pop((namespace, name), None)


class Children:
    """All copies."""

    def __init__(self, changed: Changed) -> None:
        of_finetunes = f"{naming.OURS},{naming.FINETUNE_LABEL}"
        self.jobs: Copies[Job] = Copies(Selection(Kind.JOB, naming.OURS), observed_finetune.job, changed)
        self.pods: Copies[Pod] = Copies(Selection(Kind.POD, naming.OURS), observed_finetune.pod, changed)
        self.snapshots: Copies[Snapshot] = Copies(
            Selection(Kind.CONFIG_MAP, of_finetunes, metadata_only=True), observed_finetune.snapshot, changed
        )
        self.services: Copies[GangService] = Copies(
            Selection(Kind.SERVICE, of_finetunes, metadata_only=True), observed_finetune.service, changed
        )
        self._by_kind: Mapping[Kind, Copies[Any]] = {
            Kind.JOB: self.jobs,
            Kind.POD: self.pods,
            Kind.CONFIG_MAP: self.snapshots,
            Kind.SERVICE: self.services,
        }

    @property
    def copies(self) -> Sequence[Copies[Any]]:
        """The copies of each kind."""
        return tuple(self._by_kind.values())

    def owner_of(self, namespace: str, name: str) -> Ref | None:
        """The fine-tune whose Job or pod has that name."""
        return self.jobs.owner_of(namespace, name) or self.pods.owner_of(namespace, name)

    def wrote(self, ref: Ref, manifest: Manifest) -> None:
        """This process has created, or met, this very child."""
        copies = self._by_kind.get(ref.kind)
        if copies is not None:
            copies.put(manifest)

    async def refresh(self, cluster: Cluster, owner: Ref, *, kinds: Collection[Kind]) -> None:
        """Brings the copies of these kinds of one fine-tune's children up to date."""
        labels = f"{naming.FINETUNE_LABEL}={owner.name}"
        for kind in kinds:
            copies = self._by_kind[kind]
            only = copies.selection.metadata_only
            pages = cluster.pages(kind, owner.namespace, labels=labels, metadata_only=only)
            listed = [page async for page in pages]
            copies.listed(owner, [item for page in listed for item in page.items], int(listed[-1].version))


def _owner(manifest: Manifest) -> Ref | None:
    """The object that the child's labels name."""
    labels = manifest["metadata"].get("labels") or {}
    for label, kind in naming.OWNER_LABELS.items():
        if label in labels:
            return Ref(Kind(kind), manifest["metadata"]["namespace"], labels[label])
    return None
