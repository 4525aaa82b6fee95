"""Leader election by a Lease: one replica reconciles, the others stand by.

Clocks of machines are not compared: a replica takes over when it has itself seen no renewal for the lease's duration,
and the leader stops writing when its own last renewal is older than two thirds of it.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from loraline_operator import errors, metrics
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster

NAME = "loraline-operator"

logger = logging.getLogger(__name__)


class Lease:
    """One replica's view of the Lease."""

    def __init__(self, cluster: Cluster, *, namespace: str, identity: str, duration_s: float) -> None:
        self._cluster = cluster
        self._ref = Ref(Kind.LEASE, namespace, NAME)
        self._identity = identity
        self._duration_s = duration_s
        self._write_until = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        self._held: Manifest | None = None

    @property
    def is_held(self) -> bool:
        """Whether this replica may write now."""
        return asyncio.get_running_loop().time() < self._write_until

    def check(self) -> None:
        """The fence before each write.

        Raises:
            errors.NotLeader: the last renewal is too long ago, or this replica never held the Lease.
        """
        if not self.is_held:
            raise errors.NotLeader(f"{self._ref} is not held by {self._identity} any more")

    async def acquire(self) -> None:
        """Waits until this replica holds the Lease."""
        while True:
            try:
                if await self._try():
                    metrics.leader.set(1)
                    logger.info("%s: acquired by %s", self._ref, self._identity)
                    return
            except errors.ApiError as error:
                logger.warning("%s: %s", self._ref, error)
            await asyncio.sleep(self._duration_s / 5)

    async def renew(self) -> None:
        """Renews the Lease for ever.

        While the API server does not answer, nothing is written and nothing ends: when it is back and nobody else has
        taken the Lease, it goes on.

        Raises:
            errors.NotLeader: another replica holds it.
        """
        while True:
            await asyncio.sleep(self._duration_s / 5)
            try:
                if not await self._try():
                    raise errors.NotLeader(f"{self._ref} was taken over by another replica")
            except errors.ApiError as error:
                logger.warning("%s: not renewed: %s", self._ref, error)

    async def release(self) -> None:
        """Gives the Lease back, so that another replica need not wait for its end."""
        if self._held is None or not self.is_held:
            return
        self._write_until = 0.0
        metrics.leader.set(0)
        spec = self._held["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            await self._cluster.replace(self._ref, self._held | {"spec": spec})
        except errors.ApiError as error:
            logger.warning("%s: not released: %s", self._ref, error)

    async def _try(self) -> bool:
        """One attempt to take or renew; True when it is held."""
        started = asyncio.get_running_loop().time()
        try:
            if self._held is None or not await self._renewed(self._held):
                self._held = await self._taken(await self._cluster.get(self._ref), started)
        except (errors.Conflict, errors.AlreadyExists):
            return self.is_held  # somebody wrote in between: the next attempt sees who
        self._write_until = started + self._duration_s * 2 / 3 if self._held is not None else 0.0
        return self._held is not None

    async def _renewed(self, held: Manifest) -> bool:
        """Renews the Lease as it was written last, which needs no read; False when it is another by now."""
        manifest = held | {"spec": self._spec(held["spec"])}
        try:
            answer = await self._cluster.replace(self._ref, manifest)
        except (errors.Conflict, errors.NotFound):
            return False
        self._held = manifest | {"metadata": answer["metadata"]}
        return True

    async def _taken(self, current: Manifest | None, now: float) -> Manifest | None:
        """The Lease with us as its holder, or None when it may not be taken."""
        if current is None:
            manifest = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": self._ref.name, "namespace": self._ref.namespace},
                "spec": self._spec({}),
            }
            answer = await self._cluster.create(self._ref, manifest)
        elif self._may_take(current, now):
            manifest = current | {"spec": self._spec(current["spec"])}
            answer = await self._cluster.replace(self._ref, manifest)
        else:
            return None
        return manifest | {"metadata": answer["metadata"]}

    def _may_take(self, current: Manifest, now: float) -> bool:
        spec = current["spec"]
        holder = spec.get("holderIdentity")
        if holder in (self._identity, "", None):
            return True
        version = current["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, now)
        limit_s = float(spec.get("leaseDurationSeconds", self._duration_s))
        return now - self._seen[1] > limit_s

    def _spec(self, old: Manifest) -> Manifest:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_ours = old.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration_s)),
            "acquireTime": old.get("acquireTime", now) if is_ours else now,
            "renewTime": now,
            "leaseTransitions": old.get("leaseTransitions", 0) + (0 if is_ours else 1),
        }
