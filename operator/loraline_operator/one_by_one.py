"""Passes of a namespace one after the other where they may start something: two never see the same free GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from loraline_operator import observed, observed_claims
from loraline_operator.actions import Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.one_pass import KindPath


@dataclass(frozen=True, slots=True)
class OneByOne:
    """The way of fine-tunes, where the policy of their namespace limits GPUs."""

    path: KindPath
    cluster: Cluster
    is_limited: Callable[[str], bool]
    """Whether the GPUs of a namespace are limited."""
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def targets(self, manifest: Manifest) -> Iterable[Ref]:
        """The objects that it refers to."""
        return self.path.targets(manifest)

    async def run(self, manifest: Manifest) -> float | None:
        """One pass; one that may start an attempt reads the object again when it is its turn."""
        object = observed.finetune(manifest)
        if not self.is_limited(object.meta.namespace) or observed_claims.has_attempt(object.status):
            return await self.path.run(manifest)
        lock = self.locks.setdefault(object.meta.namespace, asyncio.Lock())
        async with lock:
            current = await self.cluster.get(object.ref)
            return await self.path.run(current) if current is not None else None
