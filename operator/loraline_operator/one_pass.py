"""One pass over one object: observe, plan, apply, one status write if it differs, then events. The same for both kinds.

A first look costs no request: it plans from copies, which may be late. Most passes end there, or with a status write
that the API server refuses when the object has changed. A plan that acts, or decides about runs, is made again from a
look that is sure. When passes happen is `reconcile`'s business; what is planned is the planners'.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from loraline_api import API_VERSION
from loraline_operator import errors, manifests_event, observed
from loraline_operator.actions import Action, Create, Delete, Event, Kind, Manifest, Patch, Plan, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.look import Depth
from loraline_operator.objects import Objects, version_of
from loraline_operator.observed import CustomObject, SpecT, StatusT
from loraline_operator.settings import Settings

logger = logging.getLogger(__name__)

ObservedT = TypeVar("ObservedT", bound=observed.Observed)


class KindPath(Protocol):
    """What the loop knows of a kind."""

    async def run(self, ref: Ref) -> float | None:
        """One pass; returns the seconds until the next, if it wants one."""

    def forget(self, ref: Ref) -> None:
        """The object is gone."""


@dataclass(frozen=True, slots=True)
class Look(Generic[SpecT, StatusT, ObservedT]):
    """What a pass sees, and what it would do about it."""

    manifest: Manifest
    object: CustomObject[SpecT, StatusT]
    seen: ObservedT
    plan: Plan[StatusT]

    @property
    def changes_status(self) -> bool:
        """Whether the status has to be written."""
        return self.plan.status is not None and self.plan.status != self.object.status


@dataclass(frozen=True, slots=True)
class Path(Generic[SpecT, StatusT, ObservedT]):
    """A kind's way through a pass."""

    cluster: Cluster
    objects: Objects
    settings: Settings
    parse: Callable[[Manifest, CustomObject[SpecT, StatusT] | None], CustomObject[SpecT, StatusT]]
    """The object in a manifest; the last argument is the object of the earlier look of the same pass."""
    refers_to: Callable[[CustomObject[SpecT, StatusT]], Iterable[Ref]]
    least_depth: Depth
    """SURE where there are no copies to look at."""
    observe: Callable[[CustomObject[SpecT, StatusT], Depth, ObservedT | None], Awaitable[ObservedT]]
    """Sees the children; the last argument is what the earlier look of the same pass saw."""
    plan: Callable[[CustomObject[SpecT, StatusT], ObservedT, Settings, datetime], Plan[StatusT]]
    only_tells: Callable[[StatusT, StatusT], bool]
    """Whether a new status only tells what is seen, and decides nothing that later passes build on."""
    wrote: Callable[[Ref, Ref, Manifest], None]
    """Takes the object, and a child that this pass has created or met."""
    own: Callable[[Ref, int], None]
    """Told the version of each state of the object that this pass has made: its event is no news."""
    told: Callable[[Ref], None]
    """Called when the status was written, for those that follow the object."""
    refers: Callable[[Ref, Iterable[Ref]], None]
    """Takes what the object refers to."""
    gone: Callable[[Ref], None]
    """Called when the object is gone."""
    unsure: set[Ref] = field(default_factory=set)
    """Objects whose last pass broke off: a write whose answer was lost may have been done."""

    async def run(self, ref: Ref) -> float | None:
        """One pass over the object.

        Raises:
            errors.NotFound: it is gone, and the watch has not said so yet.
            errors.Conflict: it, or a child, changed twice while the pass looked at it.
        """
        manifest = self.objects.get(ref)
        if manifest is None:
            return None
        try:
            return await self._carry_out(await self._decided(ref, manifest))
        except errors.Conflict:
            return await self._carry_out(await self._look(await self._read(ref), Depth.SURE))
        except errors.Transient:
            self.unsure.add(ref)
            raise

    def forget(self, ref: Ref) -> None:
        """The object is gone."""
        self.unsure.discard(ref)
        self.gone(ref)

    async def _decided(self, ref: Ref, manifest: Manifest) -> Look[SpecT, StatusT, ObservedT]:
        """The look on which the pass acts."""
        if self.least_depth is Depth.SURE or ref in self.unsure:
            self.unsure.discard(ref)
            return await self._look(await self._read(ref), Depth.SURE)
        is_new = observed.is_unseen(manifest)
        look = await self._look(manifest, Depth.NEW if is_new else Depth.COPIES)
        if is_new and not look.seen.has_children:
            return look
        if look.plan.actions or (look.changes_status and not self._only_tells(look)):
            return await self._look(await self._read(ref), Depth.SURE, look)
        return look

    def _only_tells(self, look: Look[SpecT, StatusT, ObservedT]) -> bool:
        return look.plan.status is None or self.only_tells(look.object.status, look.plan.status)

    async def _read(self, ref: Ref) -> Manifest:
        """The object as it is now, or as it was seen last if that is newer."""
        manifest = await self.cluster.get(ref)
        if manifest is None:
            raise errors.NotFound(f"{ref} is not there")
        self.objects.put(ref, manifest)
        return self.objects.get(ref) or manifest

    async def _look(
        self, manifest: Manifest, depth: Depth, before: Look[SpecT, StatusT, ObservedT] | None = None
    ) -> Look[SpecT, StatusT, ObservedT]:
        object = self.parse(manifest, before.object if before is not None else None)
        self.refers(object.ref, self.refers_to(object))
        seen = await self.observe(object, depth, before.seen if before is not None else None)
        return Look(manifest, object, seen, self.plan(object, seen, self.settings, datetime.now(UTC)))

    async def _carry_out(self, look: Look[SpecT, StatusT, ObservedT]) -> float | None:
        """Does what the plan says; returns the seconds until the next pass."""
        object, plan = look.object, look.plan
        try:
            await self._apply(look, plan.actions)
        except (errors.NameConflict, errors.NamespaceEnds, errors.NotAdmitted, errors.Invalid) as refusal:
            # A quota may have room again before a deletion must be over; a namespace that ends deletes the object, too
            if isinstance(refusal, errors.NotAdmitted if object.meta.is_deleting else errors.NamespaceEnds):
                raise errors.Transient(str(refusal)) from refusal
            seen = self._with(look.seen, object, refusal)
            plan = self.plan(object, seen, self.settings, datetime.now(UTC))
            look = Look(look.manifest, object, seen, plan)
            if object.meta.is_deleting:
                await self._apply(look, plan.actions)
        if look.changes_status:
            await self._write_status(look)
        for event in plan.events if look.changes_status or plan.status is None else ():
            await self._post(object, event)
        if look.changes_status and plan.requeue_after_s is None:
            return 0  # its own event will be no news
        return plan.requeue_after_s

    def _with(self, seen: ObservedT, object: CustomObject[SpecT, StatusT], refusal: Exception) -> ObservedT:
        """What was seen, with what a write found out about a child."""
        match refusal:
            case errors.Invalid():
                logger.warning("%s: %s", object.ref, refusal)
                return replace(seen, refused=refusal.said)
            case errors.NotAdmitted():
                logger.warning("%s: %s", object.ref, refusal)
                return replace(seen, not_admitted=refusal.said)
            case _:
                return replace(seen, conflict=str(refusal))

    async def _write_status(self, look: Look[SpecT, StatusT, ObservedT]) -> None:
        assert look.plan.status is not None
        ref, metadata = look.object.ref, look.manifest["metadata"]
        body = look.manifest | {"status": look.plan.status.dump()}
        kept = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
        answer = await self.cluster.replace(ref, body | {"metadata": kept}, subresource="status")
        self._take(ref, body | {"metadata": answer["metadata"]})
        self.told(ref)

    def _take(self, ref: Ref, manifest: Manifest) -> None:
        """Takes over the state of the object that a write has made."""
        self.objects.put(ref, manifest)
        self.own(ref, version_of(manifest))

    async def _apply(self, look: Look[SpecT, StatusT, ObservedT], actions: tuple[Action, ...]) -> None:
        object = look.object
        for action in actions:
            logger.info("%s: %s %s", object.ref, type(action).__name__.lower(), action.ref)
            match action:
                case Create(ref, child):
                    await self._create(object, ref, child)
                case Patch(ref, patch, uid, resource_version):
                    answer = await self.cluster.patch(ref, patch, uid=uid, resource_version=resource_version)
                    if ref == object.ref:
                        self._take(ref, look.manifest | {"metadata": answer["metadata"]})
                case Delete(ref, uid):
                    await self.cluster.delete(ref, uid)

    async def _create(self, object: CustomObject[SpecT, StatusT], ref: Ref, manifest: Manifest) -> None:
        """Creates a child, or adopts one that has our object as its owner.

        Raises:
            errors.NameConflict: one of that name has another owner.
            errors.Transient: one of that name is being deleted, or is about to be.
        """
        try:
            answer = await self.cluster.create(ref, manifest)
            self.wrote(object.ref, ref, manifest | {"metadata": answer["metadata"]})
        except errors.AlreadyExists as error:
            existing = await self.cluster.get(ref)
            if existing is None:
                raise errors.Transient(f"{ref} was there and is gone") from error
            meta = observed.meta(existing)
            if meta.is_deleting:
                raise errors.Transient(f"{ref} is being deleted") from error
            if meta.owner_uid != object.meta.uid:
                if _is_of_an_earlier(existing, object):
                    raise errors.Transient(f"{ref} goes with the {object.kind} that had this name before") from error
                raise errors.NameConflict(f"{ref.kind} {ref.name}") from error
            self.wrote(object.ref, ref, existing)

    async def _post(self, object: CustomObject[SpecT, StatusT], event: Event) -> None:
        """Posts an event; one that cannot be posted is not worth a retry, as the status says the same."""
        meta = object.meta
        names = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
        about = {"apiVersion": API_VERSION, "kind": str(object.kind), "metadata": names}
        manifest = manifests_event.event(about, event, datetime.now(UTC))
        logger.info("%s: %s: %s", object.ref, event.reason, event.message)
        try:
            await self.cluster.create(Ref(Kind.EVENT, meta.namespace, ""), manifest)
        except errors.ApiError as error:
            logger.warning("%s: event %s not posted: %s", object.ref, event.reason, error)


def _is_of_an_earlier(child: Manifest, object: CustomObject[SpecT, StatusT]) -> bool:
    """Whether the child belongs to an object that had this one's name before: the garbage collector takes it."""
    owners = child["metadata"].get("ownerReferences") or ()
    name = (str(object.kind), object.meta.name)
    return any(owner.get("controller") and (owner["kind"], owner["name"]) == name for owner in owners)
