"""The level-triggered loop: keys from the queue become passes, and a resync lets every object run once in a while.

What a pass does is in `one_pass`; events come in through `handlers` and the reflectors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence

from loraline_operator import errors, metrics, observed
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.objects import Objects, version_of
from loraline_operator.one_pass import KindPath
from loraline_operator.queue import WorkQueue
from loraline_operator.references import References
from loraline_operator.reflector import Reflector, Selection
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


class FineTunes:
    """Takes what the reflector of fine-tunes sees; a sink."""

    selection = Selection(Kind.FINE_TUNE)

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def seen(self, manifest: Manifest) -> None:
        """One is there."""
        self._reconciler.seen(_ref(Kind.FINE_TUNE, manifest), manifest)

    def gone(self, manifest: Manifest) -> None:
        """One is there no longer."""
        self._reconciler.gone(_ref(Kind.FINE_TUNE, manifest), manifest)

    def keep_only(self, namespace: str | None, names: set[tuple[str, str]], version: int) -> None:
        """At that version these were all."""
        keys = {Ref(Kind.FINE_TUNE, place, name) for place, name in names}
        self._reconciler.keep_only(Kind.FINE_TUNE, namespace, keys, version)


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
            self.changed(ref, observed.news(ref.kind, manifest), version_of(manifest))

    def gone(self, ref: Ref, manifest: Manifest) -> None:
        """One of our objects is there no longer."""
        self._objects.remove(ref, version_of(manifest))
        self.changed(ref)

    def keep_only(self, kind: Kind, namespace: str | None, keys: Collection[Ref], version: int) -> None:
        """At that version these were all objects of one of our kinds, in that namespace or in all."""
        for ghost in self._objects.keep_only(kind, namespace, keys, version):
            self._queue.add(ghost)

    def told(self, ref: Ref) -> None:
        """The status of an object was written: what refers to it runs if that is news to it."""
        manifest = self._objects.get(ref)
        if manifest is not None:
            self._pass_on(ref, observed.news(ref.kind, manifest))

    def own(self, ref: Ref, version: int) -> None:
        """The present pass over an object has written this version, of it or of a child, and the copies have it."""
        self._queue.own(ref, version)

    def changed(self, ref: Ref, news: Hashable = None, version: int | None = None) -> None:
        """Something happened to an object: it runs if it is ours, and what refers to it does if it can have news of it.

        Args:
            news: what those who refer to it look at; None where that is not known.
            version: the state, of it or of a child, that came; None where that is not known.
        """
        self.health.seen_at[ref.kind] = asyncio.get_running_loop().time()
        if ref.kind is Kind.CONFIG_MAP:
            self.forget_data(ref)
        if ref.kind in self.paths:
            self._queue.add(ref, version)
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
        """Keeps the copies of fine-tunes and children up to date, from the versions that `list_all` gave."""
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

        Returns the versions to watch fine-tunes and children from, or None when a list was refused.
        """
        loop = asyncio.get_running_loop()
        self.health.tried_at = loop.time()
        try:
            await self.reread()
            versions = [await reflector.relist() for reflector in self.reflectors]
            for namespace in self._settings.namespaces or (None,):
                await self._list_deployments(namespace)
        except errors.NotFound as error:
            self.health.problem = f"{error}: the CRDs of Loraline are not installed; install the chart's crds/"
            self.health.listed_at = None
            logger.warning("%s", self.health.problem)
            return None
        except errors.ApiError as error:
            self.health.problem = str(error)
            logger.warning("resync: %s", error)
            return None
        for ghost in self.references.keep_only(self._objects):
            self._queue.forget(ghost)
        self._news = {ref: news for ref, news in self._news.items() if ref in self._objects}
        metrics.count_finetunes(self._objects.phases())
        for key in sorted(self._objects):
            self._queue.add(key)
        self.health.listed_at = loop.time()
        return versions

    async def _list_deployments(self, namespace: str | None) -> None:
        keys: set[Ref] = set()
        version = 0
        async for page in self._cluster.pages(Kind.ADAPTER_DEPLOYMENT, namespace):
            version = int(page.version)
            for manifest in page.items:
                ref = _ref(Kind.ADAPTER_DEPLOYMENT, manifest)
                keys.add(ref)
                self._objects.put(ref, manifest)
        self.keep_only(Kind.ADAPTER_DEPLOYMENT, namespace, keys, version)

    async def _reconcile(self, key: Ref) -> float | None:
        """One pass over one object."""
        if key not in self._objects:
            self.references.set(key, ())
            self._queue.forget(key)
            self.paths[key.kind].forget(key)
            return None
        return await self.paths[key.kind].run(key)


async def _nothing_to_reread() -> None:
    """Stands in where there is no policy."""


def _ref(kind: Kind, manifest: Manifest) -> Ref:
    return Ref(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
