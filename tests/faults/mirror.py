"""The cluster with a plan's namespace as it was seen last: reads cost no request, and a flow sees what it has written.

Flows look many times a second, many of them at once; the API server's time is for the operators.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from faults.record import WATCHED, Record
from harness.operator_process import eventually
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster

SEEN_S = 30.0
"""Longest wait for a write to come back as an event."""


class Mirror(Cluster):
    """A cluster that answers reads of the recorded namespace from its record."""

    def __init__(self, cluster: Cluster, record: Record) -> None:
        super().__init__()
        self._cluster = cluster
        self._record = record

    async def get(self, ref: Ref, *, metadata_only: bool = False) -> Manifest | None:
        """The object as it was seen last."""
        if self._is_recorded(ref.kind, ref.namespace):
            return self._record.get(ref.kind, ref.name)
        return await self._cluster.get(ref, metadata_only=metadata_only)

    async def list(self, kind: Kind, namespace: str | None = None, **selection: Any) -> AsyncIterator[Manifest]:
        """The objects as they were seen last; labels are compared with `=` or for being there."""
        if not self._is_recorded(kind, namespace) or selection.keys() - {"labels"}:
            async for item in self._cluster.list(kind, namespace, **selection):
                yield item
            return
        wanted = [part.partition("=") for part in (selection.get("labels") or "").split(",") if part]
        for item in self._record.items(kind):
            labels = item["metadata"].get("labels") or {}
            if all(label in labels and (not sign or labels[label] == value) for label, sign, value in wanted):
                yield item

    async def create(self, ref: Ref, manifest: Manifest) -> Manifest:
        """Creates an object."""
        return await self._seen(ref, await self._cluster.create(ref, manifest))

    async def patch(self, ref: Ref, patch: Manifest, **preconditions: Any) -> Manifest:
        """Changes an object by a JSON merge patch."""
        return await self._seen(ref, await self._cluster.patch(ref, patch, **preconditions))

    async def replace(self, ref: Ref, manifest: Manifest, *, subresource: str = "") -> Manifest:
        """Replaces an object, or its status."""
        return await self._seen(ref, await self._cluster.replace(ref, manifest, subresource=subresource))

    async def delete(self, ref: Ref, uid: str) -> None:
        """Deletes the object of this uid."""
        await self._cluster.delete(ref, uid)

    def _is_recorded(self, kind: Kind, namespace: str | None) -> bool:
        return kind in WATCHED and namespace == self._record.namespace

    async def _seen(self, ref: Ref, answer: Manifest) -> Manifest:
        """The answer to a write, once its event has come: what is read next is not older than what was written."""
        if self._is_recorded(ref.kind, ref.namespace):
            version = int(answer["metadata"]["resourceVersion"])

            async def look() -> bool:
                return self._record.has_seen(ref.kind, ref.name, version)

            await eventually(look, f"the write of {ref} comes back as an event", SEEN_S)
        return answer
