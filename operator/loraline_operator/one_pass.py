"""One pass over one object: observe, plan, apply, one status write if it differs, then events. The same for both kinds.

When passes happen is `reconcile`'s business; what is planned is the planners'.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from loraline_api import API_VERSION
from loraline_operator import errors, manifests_event, observed
from loraline_operator.actions import Action, Create, Delete, Event, Kind, Manifest, Patch, Plan, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.observed import CustomObject, SpecT, StatusT
from loraline_operator.settings import Settings

logger = logging.getLogger(__name__)

ObservedT = TypeVar("ObservedT")


class KindPath(Protocol):
    """What the loop knows of a kind."""

    def targets(self, manifest: Manifest) -> Iterable[Ref]:
        """The objects that it refers to: when one changes, it has to be looked at."""

    async def run(self, manifest: Manifest) -> float | None:
        """One pass; returns the seconds until the next, if it wants one."""


@dataclass(frozen=True, slots=True)
class Path(Generic[SpecT, StatusT, ObservedT]):
    """A kind's way through a pass."""

    cluster: Cluster
    settings: Settings
    parse: Callable[[Manifest], CustomObject[SpecT, StatusT]]
    refers_to: Callable[[CustomObject[SpecT, StatusT]], Iterable[Ref]]
    observe: Callable[[CustomObject[SpecT, StatusT]], Awaitable[ObservedT]]
    plan: Callable[[CustomObject[SpecT, StatusT], ObservedT, Settings, datetime], Plan[StatusT]]
    with_conflict: Callable[[ObservedT, str], ObservedT]

    def targets(self, manifest: Manifest) -> Iterable[Ref]:
        """The objects that it refers to."""
        return self.refers_to(self.parse(manifest))

    async def run(self, manifest: Manifest) -> float | None:
        """One pass over the object as just read."""
        object = self.parse(manifest)
        seen = await self.observe(object)
        plan = self.plan(object, seen, self.settings, datetime.now(UTC))
        try:
            await self._apply(object, plan.actions)
        except errors.NameConflict as conflict:
            plan = self.plan(object, self.with_conflict(seen, str(conflict)), self.settings, datetime.now(UTC))
        if plan.status is not None and plan.status != object.status:
            body = manifest | {"status": plan.status.dump()}
            await self.cluster.replace(object.ref, body, subresource="status")
            for event in plan.events:
                await self._post(object, event)
        return plan.requeue_after_s

    async def _apply(self, object: CustomObject[SpecT, StatusT], actions: tuple[Action, ...]) -> None:
        for action in actions:
            logger.info("%s: %s %s", object.ref, type(action).__name__.lower(), action.ref)
            match action:
                case Create(ref, manifest):
                    await self._create(object, ref, manifest)
                case Patch(ref, patch, uid, resource_version):
                    await self.cluster.patch(ref, patch, uid=uid, resource_version=resource_version)
                case Delete(ref, uid):
                    await self.cluster.delete(ref, uid)

    async def _create(self, object: CustomObject[SpecT, StatusT], ref: Ref, manifest: Manifest) -> None:
        """Creates a child, or adopts one that has our object as its owner.

        Raises:
            errors.NameConflict: one of that name has another owner.
            errors.Transient: one of that name is being deleted.
        """
        try:
            await self.cluster.create(ref, manifest)
        except errors.AlreadyExists as error:
            existing = await self.cluster.get(ref)
            if existing is None:
                raise errors.Transient(f"{ref} was there and is gone") from error
            meta = observed.meta(existing)
            if meta.owner_uid != object.meta.uid:
                raise errors.NameConflict(f"{ref.kind} {ref.name}") from error
            if meta.is_deleting:
                raise errors.Transient(f"{ref} is being deleted") from error

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
