"""Reads all that belongs to a fine-tune: Jobs, pods, snapshots, data, progress, and why pods do not start.

What it means is decided in `plan_finetune`.
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from dataclasses import replace

from pydantic import ValidationError

from loraline_api.conditions import Reason
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.progress import PROGRESS_PORT, Progress
from loraline_api.storage import Location
from loraline_operator import naming, observed_finetune, plan_data
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.observe_claims import ClaimsReader
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import (
    Data,
    DataProblem,
    Job,
    MissingData,
    ObservedFineTune,
    Pod,
    Stuck,
)
from loraline_operator.poll import Poller

CACHE_BYTES = 8 << 20
"""Data of ConfigMaps that is kept, so that running fine-tunes do not read a megabyte every three seconds."""


class DataReader:
    """Reads keys of ConfigMaps, and keeps the last ones while their resource version stays."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._cache: OrderedDict[tuple[str, Location], tuple[str, Data | MissingData]] = OrderedDict()

    async def read(self, namespace: str, place: Location) -> Data | MissingData:
        """The data at `configmap://name/key`."""
        ref = Ref(Kind.CONFIG_MAP, namespace, place.host)
        key = (namespace, place)
        metadata = await self._cluster.get(ref, metadata_only=True)
        kept = self._cache.pop(key, None)
        if metadata is None:
            return MissingData(DataProblem.NO_CONFIG_MAP)
        version = metadata["metadata"]["uid"] + metadata["metadata"]["resourceVersion"]
        if kept is None or kept[0] != version:
            manifest = await self._cluster.get(ref)
            if manifest is None:
                return MissingData(DataProblem.NO_CONFIG_MAP)
            version = manifest["metadata"]["uid"] + manifest["metadata"]["resourceVersion"]
            kept = (version, _data(manifest, place.path))
        self._cache[key] = kept
        while sum(_size(item) for _, item in self._cache.values()) > CACHE_BYTES:
            self._cache.popitem(last=False)
        return kept[1]


class Observer:
    """Reads the children of fine-tunes."""

    def __init__(self, cluster: Cluster, poller: Poller, claims: ClaimsReader) -> None:
        self._cluster = cluster
        self._poller = poller
        self._claims = claims
        self._data = DataReader(cluster)

    async def observe(self, object: FineTuneObject) -> ObservedFineTune:
        """All that belongs to the fine-tune now."""
        namespace = object.meta.namespace
        labels = f"{naming.FINETUNE_LABEL}={object.meta.name}"
        jobs = [observed_finetune.job(item) async for item in self._cluster.list(Kind.JOB, namespace, labels=labels)]
        pods = [observed_finetune.pod(item) async for item in self._cluster.list(Kind.POD, namespace, labels=labels)]
        config_maps = self._cluster.list(Kind.CONFIG_MAP, namespace, labels=labels, metadata_only=True)
        observed = ObservedFineTune(
            jobs=tuple(jobs),
            pods=tuple(pods),
            snapshots=tuple([observed_finetune.snapshot(item) async for item in config_maps]),
        )
        if object.spec is None or object.meta.is_deleting:
            return observed
        return replace(
            observed,
            data=await self._read_data(namespace, object.spec),
            progress=await self._progress(observed),
            stuck=await self._stuck(namespace, observed),
            claims=await self._claims.read(object),
        )

    async def _read_data(self, namespace: str, spec: LoraFineTuneSpec) -> dict[str, Data | MissingData]:
        return {part: await self._data.read(namespace, place) for part, place in plan_data.sources(spec).items()}

    async def _progress(self, observed: ObservedFineTune) -> Progress | None:
        """What the running pod tells, if it answers."""
        running = next((pod for pod in observed.pods if pod.phase == "Running" and not pod.is_deleting), None)
        if running is None or running.ip is None:
            return None
        body = await self._poller.read(running.ip, PROGRESS_PORT, "/progress")
        try:
            return Progress.model_validate_json(body) if body is not None else None
        except ValidationError:
            return None

    async def _stuck(self, namespace: str, observed: ObservedFineTune) -> Stuck | None:
        """Why a live Job has no running pod, as its events say it: statuses do not tell of Secrets and quotas."""
        for job in observed.jobs:
            if not job.is_live or job.is_deleting or job.is_suspended:
                continue
            pods = [pod for pod in observed.pods_of(job) if pod.is_live]
            if not pods:
                return await self._event(namespace, job, "FailedCreate")
            if pods[0].phase == "Pending" and pods[0].stuck is None:
                return await self._event(namespace, pods[0], "FailedMount")
        return None

    async def _event(self, namespace: str, about: Job | Pod, reason: str) -> Stuck | None:
        fields = f"involvedObject.uid={about.uid},reason={reason}"
        messages = [
            (item.get("lastTimestamp") or item.get("eventTime") or "", item.get("message", ""))
            async for item in self._cluster.list(Kind.EVENT, namespace, fields=fields)
        ]
        if not messages:
            return None
        message = max(messages)[1]
        is_quota = "exceeded quota" in message
        return Stuck(Reason.UNSCHEDULABLE if is_quota else Reason.CONFIG_MISSING, message)


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


def _size(item: Data | MissingData) -> int:
    return item.size if isinstance(item, Data) else 0
