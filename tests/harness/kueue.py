"""A stand-in for Kueue that keeps to its documented contract for batch/v1 Jobs, with a quota of pods.

Kueue: "Run a Kubernetes Job" and pkg/controller/jobs/job. A Job with the label of a queue is created suspended. On
admission Kueue adds the flavor's node selector to the pod template and sets `suspend` to false; on preemption it sets
`suspend` to true, `status.startTime` to none, takes the node selector out again, and says why in an event of the Job.
"""

from __future__ import annotations

from datetime import UTC, datetime

from loraline_operator import errors, naming
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster

FLAVOR = {"cloud.example/flavor": "spot"}


class Kueue:
    """The queues of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, quota: int) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.quota = quota
        """Pods that may run at once."""

    async def schedule(self) -> None:
        """Lets in, oldest and most important first, what fits as a whole into the quota."""
        used = sum(job["spec"]["parallelism"] for job in await self.jobs() if not job["spec"]["suspend"])
        for job in await self.jobs():
            if job["spec"]["suspend"] and used + job["spec"]["parallelism"] <= self.quota:
                used += job["spec"]["parallelism"]
                await self._patch(job, suspend=False, selector=FLAVOR)

    async def preempt(self, name: str) -> None:
        """Stops a Job that was let in."""
        job = next(job for job in await self.jobs() if job["metadata"]["name"] == name)
        job = await self._patch(job, suspend=True)
        await self._tell(job, "Stopped", "Preempted to accommodate a workload of higher priority")
        while True:
            fresh = await self._cluster.get(self._ref(job))
            if fresh is None or not fresh["status"].get("startTime"):
                break
            if fresh["status"].get("active"):  # the Job controller deletes the pods first
                continue
            fresh["status"].pop("startTime")
            try:
                await self._cluster.replace(self._ref(job), fresh, subresource="status")
            except errors.Conflict:
                continue
        await self._patch(job, selector=dict.fromkeys(FLAVOR))

    async def jobs(self) -> list[Manifest]:
        """The Jobs that have not ended and name a queue, those with a priority first, then by age."""
        found = [
            job
            async for job in self._cluster.list(Kind.JOB, self._namespace, labels=naming.KUEUE_QUEUE_LABEL)
            if not any(c["status"] == "True" and c["type"] in ("Complete", "Failed") for c in conditions(job))
        ]
        return sorted(found, key=lambda job: (not priority(job), job["metadata"]["creationTimestamp"]))

    def _ref(self, job: Manifest) -> Ref:
        return Ref(Kind.JOB, self._namespace, job["metadata"]["name"])

    async def _patch(
        self, job: Manifest, *, suspend: bool | None = None, selector: dict[str, str] | dict[str, None] | None = None
    ) -> Manifest:
        spec: Manifest = {}
        if suspend is not None:
            spec["suspend"] = suspend
        if selector is not None:
            spec["template"] = {"spec": {"nodeSelector": selector}}
        return await self._cluster.patch(self._ref(job), {"spec": spec}, uid=job["metadata"]["uid"])

    async def _tell(self, job: Manifest, reason: str, message: str) -> None:
        meta = job["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name']}.", "namespace": self._namespace},
            "involvedObject": {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
            | {"namespace": self._namespace},
            "reason": reason,
            "message": message,
            "type": "Normal",
            "lastTimestamp": now,
        }
        await self._cluster.create(Ref(Kind.EVENT, self._namespace, ""), event)


def conditions(job: Manifest) -> list[Manifest]:
    """The conditions of a Job."""
    return job.get("status", {}).get("conditions") or []


def priority(job: Manifest) -> str:
    """Name of the Job's WorkloadPriorityClass."""
    return str(job["metadata"]["labels"].get("kueue.x-k8s.io/priority-class", ""))
