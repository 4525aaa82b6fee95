"""What really happened in the namespaces of plans, by watches of the harness' own beside the proxies.

One watch of each kind serves all plans at once (`Recorder`). Of a namespace it keeps what is there now, so that nobody
has to ask the API server for it, and all that happened, which proves a few things: counts of creations and deletions
by object, live attempts at every moment, and successes that were undone (`Record`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Any

import aiohttp

from faults.proxy import Upstream, lines
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest
from loraline_operator.cluster import RESOURCES

WATCHED = (
    Kind.FINE_TUNE,
    Kind.ADAPTER_DEPLOYMENT,
    Kind.JOB,
    Kind.POD,
    Kind.CONFIG_MAP,
    Kind.SERVICE,
    Kind.DEPLOYMENT,
)
CHILDREN = frozenset({Kind.JOB, Kind.POD, Kind.CONFIG_MAP, Kind.SERVICE, Kind.DEPLOYMENT})
ROOT_CERTIFICATES = "kube-root-ca.crt"
RETRY_S = 0.5
OPEN_S = 30.0
"""Longest wait for the watches to be open."""

GAP = "not judged: the harness' own watch lost events"
"""A problem that says nothing about the operator: the API server ended a watch, as it does when it is short of time."""

Event = tuple[Kind, str, Manifest]


class Record:
    """The objects and the events of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.has_gap = False
        """Whether events may be missing, so that nothing is proved."""
        self._events: list[Event] = []
        self._objects: dict[Kind, dict[str, Manifest]] = {kind: {} for kind in WATCHED}
        self._versions: dict[tuple[Kind, str], int] = {}

    @property
    def length(self) -> int:
        """The number of events so far."""
        return len(self._events)

    def take(self, kind: Kind, what: str, item: Manifest) -> None:
        """Takes an event."""
        name = item["metadata"]["name"]
        self._events.append((kind, what, item))
        self._versions[kind, name] = int(item["metadata"]["resourceVersion"])
        if what == "DELETED":
            self._objects[kind].pop(name, None)
        else:
            self._objects[kind][name] = item

    def get(self, kind: Kind, name: str) -> Manifest | None:
        """An object as it is now."""
        return self._objects[kind].get(name)

    def items(self, kind: Kind) -> Collection[Manifest]:
        """All objects of a kind as they are now, but the ConfigMap that every namespace has."""
        return [item for name, item in self._objects[kind].items() if name != ROOT_CERTIFICATES]

    def has_seen(self, kind: Kind, name: str, version: int) -> bool:
        """Whether what is known of an object is as new as a resource version."""
        return self._versions.get((kind, name), 0) >= version

    def counts(self) -> Counter[str]:
        """Creations and deletions of each object; pods count together by what made them."""
        found: Counter[str] = Counter()
        for kind, what, item in self._events:
            if what in ("ADDED", "DELETED") and kind in CHILDREN and item["metadata"]["name"] != ROOT_CERTIFICATES:
                found[f"{what.lower()} {RESOURCES[kind].plural} {_known_name(kind, item)}"] += 1
        return found

    def problems(self) -> list[str]:
        """What was never to happen and did."""
        return [*([GAP] if self.has_gap else []), *_attempts(self._events), *_undone(self._events)]


class Recorder:
    """The watches of all namespaces, and the records of those that are recorded."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._records: dict[str, Record] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watches while the block runs; all watches are open when it begins."""
        revision = await self._upstream.revision()
        opened = {kind: asyncio.Event() for kind in WATCHED}
        self._tasks = [asyncio.create_task(self._watch(kind, revision, opened[kind])) for kind in WATCHED]
        try:
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in opened.values())), OPEN_S)
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def recording(self, namespace: str) -> Iterator[Record]:
        """Records a namespace, from before it is there, while the block runs."""
        record = self._records[namespace] = Record(namespace)
        try:
            yield record
        finally:
            del self._records[namespace]

    async def _watch(self, kind: Kind, revision: int, opened: asyncio.Event) -> None:
        resource = RESOURCES[kind]
        while True:
            url = f"{resource.prefix}/{resource.plural}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}"
            with contextlib.suppress(aiohttp.ClientError):
                async with self._upstream.request("GET", url) as answer:
                    answer.raise_for_status()
                    opened.set()
                    async for line in lines(answer.content):
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            revision = await self._after_gap()
                            break
                        revision = int(event["object"]["metadata"]["resourceVersion"])
                        self._take(kind, event["type"], event["object"])
            await asyncio.sleep(RETRY_S)

    def _take(self, kind: Kind, what: str, item: Manifest) -> None:
        record = self._records.get(item["metadata"].get("namespace", ""))
        if record is not None and what != "BOOKMARK":
            record.take(kind, what, item)

    async def _after_gap(self) -> int:
        """The revision to go on from when events are lost, which makes all present records worthless."""
        for record in self._records.values():
            record.has_gap = True
        return await self._upstream.revision()


def _known_name(kind: Kind, item: Manifest) -> str:
    labels = item["metadata"].get("labels") or {}
    made_by = labels.get("batch.kubernetes.io/job-name") or labels.get(naming.DEPLOYMENT_LABEL)
    return made_by if kind is Kind.POD and made_by else str(item["metadata"]["name"])


def _attempts(events: Iterable[Event]) -> list[str]:
    """Moments at which a fine-tune had two unfinished Jobs, or two pods that might run."""
    alive: dict[tuple[Kind, str], set[str]] = {}
    found = []
    for kind, what, item in events:
        finetune = (item["metadata"].get("labels") or {}).get(naming.FINETUNE_LABEL)
        if kind not in (Kind.JOB, Kind.POD) or finetune is None:
            continue
        here = alive.setdefault((kind, finetune), set())
        here.discard(item["metadata"]["uid"])
        if what != "DELETED" and _is_live(kind, item):
            here.add(item["metadata"]["uid"])
        if len(here) > 1:
            found.append(f"{len(here)} live {kind}s of fine-tune {finetune} at {item['metadata']['name']}")
    return found[:3]


def _is_live(kind: Kind, item: Manifest) -> bool:
    status = item.get("status") or {}
    if kind is Kind.POD:
        return status.get("phase") not in ("Succeeded", "Failed")
    ends = [c for c in status.get("conditions") or () if c["type"] in ("Complete", "Failed") and c["status"] == "True"]
    return not ends and "deletionTimestamp" not in item["metadata"]


def _undone(events: Iterable[Event]) -> list[str]:
    """Successes of a generation that became something else in the same generation."""
    succeeded: dict[str, int] = {}
    found = []
    for kind, _, item in events:
        if kind is not Kind.FINE_TUNE:
            continue
        uid, generation = item["metadata"]["uid"], item["metadata"]["generation"]
        status: Mapping[str, Any] = item.get("status") or {}
        phase = status.get("phase")
        if succeeded.get(uid) == generation and phase not in ("Succeeded", "Deleting"):
            found.append(f"the success of {item['metadata']['name']} was undone: {phase}")
        if phase == "Succeeded" and status.get("observedGeneration") == generation:
            succeeded[uid] = generation
    return found[:3]
