"""Passes of a namespace one after the other where they may start something: two never see the same free GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from loraline_operator import observed, observed_claims
from loraline_operator.actions import Ref
from loraline_operator.objects import Objects
from loraline_operator.one_pass import KindPath


@dataclass(frozen=True, slots=True)
class OneByOne:
    """The way of fine-tunes, where the policy of their namespace limits GPUs."""

    path: KindPath
    objects: Objects
    is_limited: Callable[[str], bool]
    """Whether the GPUs of a namespace are limited."""
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def forget(self, ref: Ref) -> None:
        """The object is gone."""
        self.path.forget(ref)

    async def run(self, ref: Ref) -> float | None:
        """One pass; one that may start an attempt waits for its turn."""
        manifest = self.objects.get(ref)
        if manifest is None:
            return None
        if not self.is_limited(ref.namespace) or observed_claims.has_attempt(observed.finetune(manifest).status):
            return await self.path.run(ref)
        lock = self.locks.setdefault(ref.namespace, asyncio.Lock())
        async with lock:
            return await self.path.run(ref)
