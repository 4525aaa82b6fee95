"""Keeps a copy of all objects of one kind that match a selector: a list, then a watch that goes on after any break.

What is kept of an object is the sink's matter. Unlike kopf's watches, this one tells of objects that went while the
watch was broken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from loraline_operator import errors
from loraline_operator.actions import Kind, Manifest
from loraline_operator.cluster import Cluster

RETRY_S = 1.0
"""Time to the next attempt after a list or a watch was refused."""

REOPEN_S = 0.05
"""Time before a watch that the server ended is opened again."""

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What takes the objects. Versions are resource versions, by which an older state is told from a newer one."""

    def seen(self, manifest: Manifest) -> None:
        """The object is there."""

    def gone(self, manifest: Manifest) -> None:
        """The object is there no longer; this was its last state."""

    def keep_only(self, namespace: str | None, names: set[tuple[str, str]], version: int) -> None:
        """At that version these (namespace, name) were all that were there, in that namespace or in all."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects are kept."""

    kind: Kind
    labels: str | None = None
    fields: str | None = None
    metadata_only: bool = False


class Reflector:
    """Lists and watches for one sink."""

    def __init__(self, cluster: Cluster, selection: Selection, sink: Sink, namespaces: Sequence[str] = ()) -> None:
        self._cluster = cluster
        self._selection = selection
        self._sink = sink
        self._namespaces: Sequence[str | None] = namespaces or (None,)

    async def run(self, versions: Mapping[str | None, str]) -> None:
        """Follows what happens after the lists of `relist`, for ever."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._follow(namespace, versions[namespace]))

    async def relist(self) -> dict[str | None, str]:
        """Lists everything and forgets what is not there; returns the resource version of each namespace's list.

        Raises:
            errors.ApiError: a list was refused.
        """
        return {namespace: await self._list(namespace) for namespace in self._namespaces}

    async def _follow(self, namespace: str | None, version: str) -> None:
        chosen = self._selection
        is_down = False
        while True:
            try:
                events = self._cluster.watch(
                    chosen.kind,
                    namespace,
                    since=version,
                    labels=chosen.labels,
                    fields=chosen.fields,
                    metadata_only=chosen.metadata_only,
                )
                async for kind, manifest in events:
                    if kind == "DELETED":
                        self._sink.gone(manifest)
                    elif kind != "BOOKMARK":
                        self._sink.seen(manifest)
                    version = manifest["metadata"]["resourceVersion"]
                    is_down = False
                await asyncio.sleep(REOPEN_S)
            except errors.Gone:
                version = await self._list_again(namespace, version)
            except errors.ApiError as error:
                logger.log(logging.DEBUG if is_down else logging.WARNING, "%s", error)
                is_down = True
                await asyncio.sleep(RETRY_S)

    async def _list_again(self, namespace: str | None, version: str) -> str:
        """The version to go on from; the old one, which leads here again, when the list was refused."""
        try:
            return await self._list(namespace)
        except errors.ApiError as error:
            logger.warning("%s", error)
            await asyncio.sleep(RETRY_S)
            return version

    async def _list(self, namespace: str | None) -> str:
        chosen = self._selection
        names: set[tuple[str, str]] = set()
        version = ""
        pages = self._cluster.pages(
            chosen.kind, namespace, labels=chosen.labels, fields=chosen.fields, metadata_only=chosen.metadata_only
        )
        async for page in pages:
            version = page.version
            for item in page.items:
                names.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                self._sink.seen(item)
        self._sink.keep_only(namespace, names, int(version))
        return version
