"""When the policy is read: at each resync, and one read at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from loraline_operator import errors
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster, Page
from loraline_operator.objects import Objects
from loraline_operator.policy_store import PolicyStore
from loraline_operator.queue import WorkQueue
from loraline_operator.reconcile import Reconciler
from loraline_operator.settings import Settings

SETTINGS = Settings("trainer:1", "operator:1", "vllm:1")


class OnePolicy(Cluster):
    """A cluster of one ConfigMap, whose first read is answered late, and which cannot be read while it is `down`."""

    def __init__(self) -> None:
        super().__init__()
        self.rank = 8
        self.is_down = False
        self.late = asyncio.Event()
        self._reads = 0

    async def get(self, ref: Ref, *, metadata_only: bool = False) -> Manifest | None:
        """The policy as it is when the request comes."""
        if self.is_down:
            raise errors.Transient("nobody listens")
        self._reads += 1
        text = f"limits: {{rank: {self.rank}}}"
        if self._reads == 1:
            await self.late.wait()
        return {"metadata": {"name": ref.name}, "data": {"policy.yaml": text}}

    async def pages(self, kind: Kind, namespace: str | None = None, **_: Any) -> AsyncIterator[Page]:
        """Nothing of any kind."""
        yield Page([], "1")


async def test_of_two_reads_at_once_the_older_answer_does_not_come_last() -> None:
    cluster = OnePolicy()
    policies = PolicyStore(cluster, SETTINGS)
    first = asyncio.create_task(policies.load())
    await asyncio.sleep(0)
    cluster.rank = 16
    second = asyncio.create_task(policies.load())
    await asyncio.sleep(0)
    cluster.late.set()
    assert await first
    assert await second
    assert policies.current.limits.rank == 16


async def test_a_resync_reads_the_policy_again_as_a_lost_event_tells_nothing() -> None:
    cluster = OnePolicy()
    cluster.late.set()
    policies = PolicyStore(cluster, SETTINGS)
    reconciler = Reconciler(cluster, Objects(), WorkQueue(), SETTINGS)
    reconciler.reread = policies.load
    assert await reconciler.list_all() == []
    cluster.rank = 16
    assert await reconciler.list_all() == []
    assert policies.current.limits.rank == 16
    cluster.is_down = True
    assert await reconciler.list_all() is None, "it is tried again soon"
