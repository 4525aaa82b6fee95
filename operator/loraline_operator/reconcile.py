"""The level-triggered loop: keys from the queue become passes, and a resync lets every object run once in a while.

What a pass does is in `one_pass`; events come in through `handlers` and the reflectors.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence

from loraline_operator import errors, metrics, observed
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.objects import Objects
from loraline_operator.one_pass import KindPath
from loraline_operator.queue import WorkQueue
from loraline_operator.references import References
from loraline_operator.reflector import Reflector
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

    def __init__(self, cluster: Cluster, objects: Objects, queue: WorkQueue, settings: Settings) -> None:
        self.health = Health()
        self.paths: Mapping[Kind, KindPath] = {}
        self.reflectors: Sequence[Reflector] = ()
        self.forget_data: Callable[[Ref], None] = lambda _: None
        self.reread: Callable[[], Awaitable[object]] = _nothing_to_reread
        """Reads again, at each resync, what no list tells: the policy."""
        self._cluster = cluster
        self._objects = objects
        self._queue = queue
        self._settings = settings
        self.references = References()
        self._news: dict[Ref, Hashable] = {}
        self._soon = asyncio.Event()
        cluster.recovered = self._soon.set

    def seen(self, ref: Ref, manifest: Manifest) -> None:
        """One of our objects is there; its own writes come back as events, and are no news."""
        if self._objects.put(ref, manifest):
            self.changed(ref, observed.news(ref.kind, manifest))

    def gone(self, ref: Ref, manifest: Manifest) -> None:
        """One of our objects is there no longer."""
        self._objects.remove(ref, int(manifest["metadata"]["resourceVersion"]))
        self.changed(ref)

    def told(self, ref: Ref) -> None:
        """The status of an object was written: what refers to it runs if that is news to it."""
        manifest = self._objects.get(ref)
        if manifest is not None:
            self._pass_on(ref, observed.news(ref.kind, manifest))

    def changed(self, ref: Ref, news: Hashable = None) -> None:
        """Something happened to an object: it runs if it is ours, and what refers to it does if it can have news of it.

        Args:
            news: what those who refer to it look at; None where that is not known.
        """
        self.health.seen_at[ref.kind] = asyncio.get_running_loop().time()
        if ref.kind is Kind.CONFIG_MAP:
            self.forget_data(ref)
        if ref.kind in self.paths:
            self._queue.add(ref)
        self._pass_on(ref, news)

    def _pass_on(self, ref: Ref, news: Hashable) -> None:
        if news is not None and self._news.get(ref) == news:
            return
        self._news.pop(ref, None)
        if news is not None:
            self._news[ref] = news
        for source in self.references.to(ref):
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

    async def follow(self, versions: Sequence[Mapping[str | None, str]]) -> None:
        """Keeps the copies of children up to date, from the versions that `list_all` gave."""
        async with asyncio.TaskGroup() as group:
            for reflector, version in zip(self.reflectors, versions, strict=True):
                group.create_task(reflector.run(version))

    async def resync(self) -> None:
        """Lists everything for ever: once in a while, after an outage, and soon again while lists are refused."""
        is_done = True
        while True:
            try:
                wait_s = self._settings.resync_interval_s if is_done else LIST_RETRY_S
                await asyncio.wait_for(self._soon.wait(), wait_s)
            except TimeoutError:
                pass
            self._soon.clear()
            is_done = await self.list_all() is not None

    async def list_all(self) -> Sequence[Mapping[str | None, str]] | None:
        """Reads the policy, lists both kinds and all children, lets each object run and forgets those that are gone.

        Returns the versions to watch the children from, or None when a list was refused.
        """
        loop = asyncio.get_running_loop()
        self.health.tried_at = loop.time()
        phases: Counter[str] = Counter()
        keys: set[Ref] = set()
        try:
            await self.reread()
            versions = [await reflector.relist() for reflector in self.reflectors]
            for kind in self.paths:
                for namespace in self._settings.namespaces or (None,):
                    keys |= await self._list(kind, namespace, phases)
        except errors.NotFound as error:
            self.health.problem = f"{error}: the CRDs of Loraline are not installed; install the chart's crds/"
            self.health.listed_at = None
            logger.warning("%s", self.health.problem)
            return None
        except errors.ApiError as error:
            self.health.problem = str(error)
            logger.warning("resync: %s", error)
            return None
        for ghost in self.references.keep_only(keys):
            self._queue.forget(ghost)
        self._news = {ref: news for ref, news in self._news.items() if ref in keys}
        metrics.count_finetunes(phases)
        for key in sorted(keys):
            self._queue.add(key)
        self.health.listed_at = loop.time()
        return versions

    async def _list(self, kind: Kind, namespace: str | None, phases: Counter[str]) -> set[Ref]:
        keys: set[Ref] = set()
        version = 0
        async for page in self._cluster.pages(kind, namespace):
            version = int(page.version)
            for manifest in page.items:
                ref = Ref(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
                keys.add(ref)
                self._objects.put(ref, manifest)
                self.references.set(ref, self._targets(ref, manifest))
                if kind is Kind.FINE_TUNE:
                    phases[(manifest.get("status") or {}).get("phase", "Pending")] += 1
        for ghost in self._objects.keep_only(kind, namespace, keys, version):
            self._queue.add(ghost)
        return keys

    def _targets(self, ref: Ref, manifest: Manifest) -> Iterable[Ref]:
        """What an object refers to; one that cannot be read never stops the resync of all others."""
        try:
            return self.paths[ref.kind].targets(manifest)
        except ValueError as error:
            logger.warning("%s: its references cannot be read: %s", ref, error)
            return ()

    async def _reconcile(self, key: Ref) -> float | None:
        """One pass over one object."""
        if key not in self._objects:
            self.references.set(key, ())
            self._queue.forget(key)
            return None
        return await self.paths[key.kind].run(key)


async def _nothing_to_reread() -> None:
    """Stands in where there is no policy."""
