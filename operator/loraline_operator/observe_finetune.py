"""Sees all that belongs to a fine-tune: the copies of its children, its data, its progress, and why pods do not start.

What it means is decided in `plan_finetune`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pydantic import ValidationError

from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.progress import PROGRESS_PORT, Progress
from loraline_operator import plan_data, plan_deletion, plan_gang
from loraline_operator.actions import Kind, Ref
from loraline_operator.children import Children
from loraline_operator.cluster import Cluster
from loraline_operator.complaints import Complaints
from loraline_operator.look import Depth
from loraline_operator.observe_claims import ClaimsReader
from loraline_operator.observe_data import DataReader
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed import finetune as observed_fine_tune
from loraline_operator.observed_finetune import Data, MissingData, ObservedFineTune, Stuck
from loraline_operator.pace import Pace
from loraline_operator.poll import Poller
from loraline_operator.settings import Settings

ATTEMPT = (Kind.JOB, Kind.POD, Kind.CONFIG_MAP)
"""What every attempt has."""


class Observer:
    """Sees the children of fine-tunes."""

    def __init__(
        self,
        cluster: Cluster,
        poller: Poller,
        children: Children,
        complaints: Complaints,
        *,
        claims: ClaimsReader,
        settings: Settings,
    ) -> None:
        self.data = DataReader(cluster, settings.resync_interval_s / 2)  # each resync reads anew
        self.pace = Pace(settings.progress_interval_s, settings.progress_per_s)
        self._cluster = cluster
        self._poller = poller
        self._children = children
        self._complaints = complaints
        self._claims = claims

    async def observe(
        self, object: FineTuneObject, depth: Depth, before: ObservedFineTune | None = None
    ) -> ObservedFineTune:
        """All that belongs to the fine-tune; `before` is the last look of the same pass, whose progress is kept."""
        namespace, name = object.meta.namespace, object.meta.name
        if depth is Depth.SURE:
            await self._children.refresh(self._cluster, object.ref, kinds=ATTEMPT)
            if plan_gang.may_have_services(object, self._children.jobs.of(namespace, name)):
                await self._children.refresh(self._cluster, object.ref, kinds=(Kind.SERVICE,))
        observed = ObservedFineTune(
            jobs=self._children.jobs.of(namespace, name),
            pods=self._children.pods.of(namespace, name),
            snapshots=self._children.snapshots.of(namespace, name),
            services=self._children.services.of(namespace, name),
        )
        if object.meta.is_deleting and plan_deletion.deletes_output(object):
            return replace(observed, held=await self._held(object))
        if object.spec is None or object.meta.is_deleting:
            self.pace.leave(object.ref)
            return observed
        progress = before.progress if before is not None else await self._progress(object.ref, observed)
        return replace(
            observed,
            data=await self._read_data(namespace, object.spec, is_sure=depth is not Depth.COPIES),
            progress=progress,
            progress_in_s=self.pace.wait_s(object.ref, asyncio.get_running_loop().time()),
            stuck=self._stuck(observed),
            claims=await self._claims.read(object),
            stopped=self._stopped(observed),
        )

    async def _read_data(
        self, namespace: str, spec: LoraFineTuneSpec, *, is_sure: bool
    ) -> dict[str, Data | MissingData]:
        places = plan_data.sources(spec)
        return {part: await self.data.read(namespace, place, is_sure=is_sure) for part, place in places.items()}

    async def _progress(self, ref: Ref, observed: ObservedFineTune) -> Progress | None:
        """What the running pod tells, if it is time and it answers; of several nodes the first speaks for all."""
        pods = (pod for pod in observed.pods if pod.index == 0)
        running = next((pod for pod in pods if pod.phase == "Running" and not pod.is_deleting), None)
        if running is None or running.ip is None:
            self.pace.leave(ref)
            return None
        if not self.pace.is_due(ref, asyncio.get_running_loop().time()):
            return None
        body = await self._poller.read(running.ip, PROGRESS_PORT, "/progress")
        try:
            return Progress.model_validate_json(body) if body is not None else None
        except ValidationError:
            return None

    def _stuck(self, observed: ObservedFineTune) -> Stuck | None:
        """Why a live Job has no running pod."""
        for job in observed.jobs:
            if not job.is_live or job.is_deleting or job.is_suspended:
                continue
            pods = [pod for pod in observed.pods_of(job) if pod.is_live]
            if not pods:
                return self._complaints.about(job.uid)
            waiting = next((pod for pod in pods if pod.phase == "Pending"), None)
            if waiting is not None and waiting.stuck is None:
                return self._complaints.about(waiting.uid)
        return None

    def _stopped(self, observed: ObservedFineTune) -> str | None:
        """What Kueue said when it stopped a Job that it had let in."""
        for job in observed.jobs:
            if job.is_live and job.is_suspended and job.queue is not None:
                return self._complaints.stopped(job.uid)
        return None

    async def _held(self, object: FineTuneObject) -> frozenset[str]:
        """Runs in the status of the other fine-tunes of the namespace."""
        others = [observed_fine_tune(item) async for item in self._cluster.list(Kind.FINE_TUNE, object.meta.namespace)]
        statuses = [other.status for other in others if other.meta.uid != object.meta.uid]
        current = {status.run.id for status in statuses if status.run is not None}
        return frozenset(current | {record.run_id for status in statuses for record in status.history})
