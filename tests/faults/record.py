"""What really happened in a namespace, by a watch of the harness' own beside the proxy, and what it proves.

Counts of creations and deletions by object, live attempts at every moment, and successes that were undone.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from faults.proxy import Upstream, lines
from loraline_operator import naming
from loraline_operator.actions import Manifest

WATCHED: Mapping[str, str] = {
    "lorafinetunes": "/apis/loraline.dev/v1alpha1",
    "adapterdeployments": "/apis/loraline.dev/v1alpha1",
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
    "configmaps": "/api/v1",
    "services": "/api/v1",
    "deployments": "/apis/apps/v1",
}
CHILDREN = ("jobs", "pods", "configmaps", "services", "deployments")
ROOT_CERTIFICATES = "kube-root-ca.crt"
RETRY_S = 0.5


@dataclass
class Record:
    """The events of one namespace."""

    upstream: Upstream
    namespace: str
    events: list[tuple[str, str, Manifest]] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Records from now on."""
        revision = await self.upstream.revision()
        for plural, prefix in WATCHED.items():
            path = f"{prefix}/namespaces/{self.namespace}/{plural}"
            self._tasks.append(asyncio.create_task(self._watch(plural, path, str(revision))))

    async def stop(self) -> None:
        """Stops recording."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, plural: str, path: str, revision: str) -> None:
        while True:
            try:
                url = f"{path}?watch=true&resourceVersion={revision}"
                async with self.upstream.request("GET", url) as answer:
                    async for line in lines(answer.content):
                        event = json.loads(line)
                        revision = event["object"]["metadata"]["resourceVersion"]
                        self.events.append((plural, event["type"], event["object"]))
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(RETRY_S)

    def counts(self) -> Counter[str]:
        """Creations and deletions of each object; pods count together by what made them."""
        found: Counter[str] = Counter()
        for plural, kind, item in self.events:
            if kind in ("ADDED", "DELETED") and plural in CHILDREN and item["metadata"]["name"] != ROOT_CERTIFICATES:
                found[f"{kind.lower()} {plural} {_known_name(plural, item)}"] += 1
        return found

    def problems(self) -> list[str]:
        """What was never to happen and did."""
        return [*_attempts(self.events), *_undone(self.events)]


def _known_name(plural: str, item: Manifest) -> str:
    labels = item["metadata"].get("labels") or {}
    made_by = labels.get("batch.kubernetes.io/job-name") or labels.get(naming.DEPLOYMENT_LABEL)
    return made_by if plural == "pods" and made_by else str(item["metadata"]["name"])


def _attempts(events: Iterable[tuple[str, str, Manifest]]) -> list[str]:
    """Moments at which a fine-tune had two unfinished Jobs, or two pods that might run."""
    alive: dict[tuple[str, str], set[str]] = {}
    found = []
    for plural, kind, item in events:
        finetune = (item["metadata"].get("labels") or {}).get(naming.FINETUNE_LABEL)
        if plural not in ("jobs", "pods") or finetune is None:
            continue
        here = alive.setdefault((plural, finetune), set())
        here.discard(item["metadata"]["uid"])
        if kind != "DELETED" and _is_live(plural, item):
            here.add(item["metadata"]["uid"])
        if len(here) > 1:
            found.append(f"{len(here)} live {plural} of fine-tune {finetune} at {item['metadata']['name']}")
    return found[:3]


def _is_live(plural: str, item: Manifest) -> bool:
    status = item.get("status") or {}
    if plural == "pods":
        return status.get("phase") not in ("Succeeded", "Failed")
    ends = [c for c in status.get("conditions") or () if c["type"] in ("Complete", "Failed") and c["status"] == "True"]
    return not ends and "deletionTimestamp" not in item["metadata"]


def _undone(events: Iterable[tuple[str, str, Manifest]]) -> list[str]:
    """Successes of a generation that became something else in the same generation."""
    succeeded: dict[str, int] = {}
    found = []
    for plural, _, item in events:
        if plural != "lorafinetunes":
            continue
        uid, generation = item["metadata"]["uid"], item["metadata"]["generation"]
        status: Mapping[str, Any] = item.get("status") or {}
        phase = status.get("phase")
        if succeeded.get(uid) == generation and phase != "Succeeded":
            found.append(f"the success of {item['metadata']['name']} was undone: {phase}")
        if phase == "Succeeded" and status.get("observedGeneration") == generation:
            succeeded[uid] = generation
    return found[:3]
