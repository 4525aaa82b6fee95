"""The level-triggered loop: keys from the queue become passes, and a resync lets every object run once in a while.

What a pass does is in `one_pass`; events come in through `handlers`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

from loraline_operator import errors, metrics
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.one_pass import KindPath
from loraline_operator.queue import WorkQueue
from loraline_operator.references import References
from loraline_operator.settings import Settings

LIST_RETRY_S = 2.0
"""Time to the next attempt when a resync did not get its lists."""

logger = logging.getLogger(__name__)


class Health:
    """When the loop last turned and listed, by the event loop's clock; the probes read it."""

    def __init__(self) -> None:
        self.tried_at: float | None = None
        self.listed_at: float | None = None
        self.problem = "both kinds have not been listed yet"
        self.seen_at: dict[Kind, float] = {}
        """Last event by kind."""


class Reconciler:
    """Reconciles the objects whose keys the queue brings."""

    def __init__(self, cluster: Cluster, paths: Mapping[Kind, KindPath], queue: WorkQueue, settings: Settings) -> None:
        self.health = Health()
        self._cluster = cluster
        self._paths = paths
        self._queue = queue
        self._settings = settings
        self._references = References()
        self._news: dict[Ref, Hashable] = {}

    def changed(self, ref: Ref, news: Hashable = None) -> None:
        """Something happened to an object: it runs if it is ours, and what refers to it does if it can have news of it.

        Args:
            news: what those who refer to it look at; None where that is not known.
        """
        self.health.seen_at[ref.kind] = asyncio.get_running_loop().time()
        if ref.kind in self._paths:
            self._queue.add(ref)
        if news is not None and self._news.get(ref) == news:
            return
        self._news.pop(ref, None)
        if news is not None:
            self._news[ref] = news
        for source in self._references.to(ref):
            self._queue.add(source)

    async def work(self) -> None:
        """Takes keys from the queue for ever; the one place that outlives any error."""
        while True:
            key = await self._queue.get()
            try:
                with metrics.reconcile_seconds.labels(key.kind).time():
                    requeue_after_s = await self._reconcile(key)
            except (errors.Conflict, errors.NotFound, errors.NotLeader):
                # The object changed or went while it was read. A lost Lease ends the process in `lease`.
                metrics.reconciles.labels(key.kind, "retried").inc()
                self._queue.failed(key)
            except errors.Transient as error:
                metrics.reconciles.labels(key.kind, "retried").inc()
                delay_s = self._queue.failed(key, error.retry_after_s)
                logger.warning("%s: %s; again in %.1f s", key, error, delay_s)
            except Exception:
                metrics.reconciles.labels(key.kind, "error").inc()
                delay_s = self._queue.failed(key)
                logger.exception("%s: not reconciled; again in %.1f s", key, delay_s)
            else:
                metrics.reconciles.labels(key.kind, "done").inc()
                self._queue.succeeded(key)
                self._queue.add_after(key, requeue_after_s)
            finally:
                self._queue.done(key)

    async def resync(self) -> None:
        """Lists everything for ever, soon again while the lists are refused."""
        while True:
            if await self.list_all():
                await asyncio.sleep(self._settings.resync_interval_s)
            else:
                await asyncio.sleep(LIST_RETRY_S)

    async def list_all(self) -> bool:
        """Lists both kinds, lets each object run and forgets those that are gone; False when a list was refused."""
        loop = asyncio.get_running_loop()
        self.health.tried_at = loop.time()
        keys: set[Ref] = set()
        phases: Counter[str] = Counter()
        try:
            for kind in self._paths:
                for namespace in self._settings.namespaces or (None,):
                    await self._list(kind, namespace, keys, phases)
        except errors.NotFound as error:
            self.health.problem = f"{error}: the CRDs of Loraline are not installed; install the chart's crds/"
            self.health.listed_at = None
            logger.warning("%s", self.health.problem)
            return False
        except errors.ApiError as error:
            self.health.problem = str(error)
            logger.warning("resync: %s", error)
            return False
        for ghost in self._references.keep_only(keys):
            self._queue.forget(ghost)
        self._news = {ref: news for ref, news in self._news.items() if ref in keys}
        metrics.count_finetunes(phases)
        for key in sorted(keys):
            self._queue.add(key)
        self.health.listed_at = loop.time()
        return True

    async def _list(self, kind: Kind, namespace: str | None, keys: set[Ref], phases: Counter[str]) -> None:
        async for manifest in self._cluster.list(kind, namespace):
            ref = Ref(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
            keys.add(ref)
            self._references.set(ref, self._targets(ref, manifest))
            if kind is Kind.FINE_TUNE:
                phases[(manifest.get("status") or {}).get("phase", "Pending")] += 1

    def _targets(self, ref: Ref, manifest: Manifest) -> Iterable[Ref]:
        """What an object refers to; one that cannot be read never stops the resync of all others."""
        try:
            return self._paths[ref.kind].targets(manifest)
        except ValueError as error:
            logger.warning("%s: its references cannot be read: %s", ref, error)
            return ()

    async def _reconcile(self, key: Ref) -> float | None:
        """One pass over one object, as it is now."""
        manifest = await self._cluster.get(key)
        if manifest is None:
            self._references.set(key, ())
            self._queue.forget(key)
            return None
        path = self._paths[key.kind]
        self._references.set(key, path.targets(manifest))
        return await path.run(manifest)
