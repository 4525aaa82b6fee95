"""Keeps the policy: reads its ConfigMap in the operator's own namespace, again whenever it changes and at each resync.

A policy that does not parse leaves the last good one in force, and is told in the log, a metric, an event on the
ConfigMap and the answer of /readyz. Where there is none at the start, nothing is reconciled before it is mended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from loraline_api.conditions import Reason
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_operator import errors, manifests_event, metrics, observed_policy
from loraline_operator.actions import Event, Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.settings import Settings

RETRY_S = 2.0
"""Time to the next attempt when the policy could not be read."""

logger = logging.getLogger(__name__)


class PolicyStore:
    """The policy in force."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self.current: Policy = ALLOW_ALL
        self.problem = "the policy has not been read yet"
        """Why the ConfigMap as it is now is not in force."""
        self.is_loaded = False
        self._cluster = cluster
        self._ref = Ref(Kind.CONFIG_MAP, settings.namespace, settings.policy)
        self._told_version = ""
        self._reading = asyncio.Lock()

    async def load(self) -> bool:
        """Reads the ConfigMap; True when another policy is in force now.

        Raises:
            errors.ApiError: it could not be read; the policy stays.
        """
        async with self._reading:  # of two reads at once the older answer must not come last
            manifest = await self._cluster.get(self._ref)
            try:
                policy = observed_policy.policy(self._ref, manifest)
            except ValueError as error:
                await self._refuse(manifest, str(error))
                return False
            is_new = not self.is_loaded or policy != self.current
            if is_new or self.problem:
                logger.info("%s: %s is in force", self._ref, "no policy" if manifest is None else "the policy")
            self.current, self.problem, self.is_loaded = policy, "", True
            metrics.policy_valid.set(1)
            return is_new

    async def first(self) -> None:
        """Waits until there is a policy to judge by."""
        while not self.is_loaded:
            try:
                await self.load()
            except errors.ApiError as error:
                self.problem = str(error)
                logger.warning("%s: %s; again in %.0f s", self._ref, error, RETRY_S)
            if not self.is_loaded:
                await asyncio.sleep(RETRY_S)

    async def watch(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Reads the policy again at each of its changes, for ever; `changed` follows a change of what is in force."""
        while True:
            try:
                if await self.load():
                    await changed()
                async for kind, _ in self._cluster.watch(
                    self._ref.kind, self._ref.namespace, fields=f"metadata.name={self._ref.name}"
                ):
                    if kind != "BOOKMARK" and await self.load():
                        await changed()
            except errors.ApiError as error:
                logger.warning("%s: %s; again in %.0f s", self._ref, error, RETRY_S)
                await asyncio.sleep(RETRY_S)

    async def _refuse(self, manifest: Manifest | None, problem: str) -> None:
        stays = "the policy of before stays in force" if self.is_loaded else "nothing is reconciled before it is mended"
        self.problem = f"{problem}; {stays}"
        metrics.policy_valid.set(0)
        version = manifest["metadata"]["resourceVersion"] if manifest is not None else ""
        if manifest is None or version == self._told_version:
            return
        self._told_version = version
        metrics.policy_refusals.inc()
        logger.error("%s", self.problem)
        event = manifests_event.event(manifest, Event(Reason.POLICY_INVALID, self.problem, True), datetime.now(UTC))
        try:
            await self._cluster.create(Ref(Kind.EVENT, self._ref.namespace, ""), event)
        except errors.ApiError as error:
            logger.warning("%s: event %s not posted: %s", self._ref, Reason.POLICY_INVALID, error)
