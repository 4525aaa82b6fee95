"""Reads data sets from ConfigMaps, and remembers their digests, so that most passes need no request.

What the data means for a run is decided in `plan_data`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

from loraline_api.storage import Location
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.observed_finetune import Data, DataProblem, MissingData

MAX_KNOWN = 50_000
"""ConfigMaps that are remembered; the oldest go first."""

CONTENT_BYTES = 8 << 20
"""Content that is kept, so that data which several fine-tunes train on is read once."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one key of a ConfigMap: its data without the content, the version, and when it was checked."""

    version: str
    data: Data
    checked_at: float


class DataReader:
    """Reads keys of ConfigMaps."""

    def __init__(self, cluster: Cluster, recheck_s: float) -> None:
        self._cluster = cluster
        self._recheck_s = recheck_s
        self._known: OrderedDict[Ref, dict[str, Known]] = OrderedDict()
        self._content: OrderedDict[str, str] = OrderedDict()
        """Content by digest."""

    async def read(self, namespace: str, place: Location, *, is_sure: bool) -> Data | MissingData:
        """The data at `configmap://name/key`; without its content, and perhaps late, unless `is_sure`."""
        ref = Ref(Kind.CONFIG_MAP, namespace, place.host)
        known = self._known.get(ref, {}).get(place.path)
        now = asyncio.get_running_loop().time()
        if not is_sure and known is not None and now - known.checked_at < self._recheck_s:
            return known.data
        metadata = await self._cluster.get(ref, metadata_only=True)
        if metadata is None:
            return MissingData(DataProblem.NO_CONFIG_MAP)
        content = self._content.get(known.data.digest) if known is not None else None
        if known is not None and known.version == _version(metadata) and (content is not None or not is_sure):
            self._remember(ref, place, replace(known, checked_at=now))
            return replace(known.data, content=content or "")
        manifest = await self._cluster.get(ref)
        if manifest is None:
            return MissingData(DataProblem.NO_CONFIG_MAP)
        found = _data(manifest, place.path)
        if isinstance(found, Data):
            self._remember(ref, place, Known(_version(manifest), replace(found, content=""), now))
            self._keep(found)
        return found

    def forget(self, ref: Ref) -> None:
        """The ConfigMap has changed, or nobody needs it any more."""
        self._known.pop(ref, None)

    def _remember(self, ref: Ref, place: Location, known: Known) -> None:
        self._known.setdefault(ref, {})[place.path] = known
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def _keep(self, data: Data) -> None:
        self._content[data.digest] = data.content
        self._content.move_to_end(data.digest)
        while sum(map(len, self._content.values())) > CONTENT_BYTES:
            self._content.popitem(last=False)


def _version(manifest: Manifest) -> str:
    return str(manifest["metadata"]["uid"] + manifest["metadata"]["resourceVersion"])


def _data(manifest: Manifest, key: str) -> Data | MissingData:
    """One key of a ConfigMap, text or binary."""
    texts, binaries = manifest.get("data") or {}, manifest.get("binaryData") or {}
    if key in texts:
        content = texts[key].encode()
        return Data(texts[key], hashlib.sha256(content).hexdigest(), len(content))
    if key in binaries:
        content = base64.b64decode(binaries[key])
        return Data(binaries[key], hashlib.sha256(content).hexdigest(), len(content), is_binary=True)
    return MissingData(DataProblem.NO_KEY, tuple(sorted((*texts, *binaries))))
