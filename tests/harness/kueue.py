"""A stand-in for Kueue that does to batch/v1 Jobs what Kueue v0.17.0 was seen to do, with a quota of pods.

`python -m kueue` runs the real one. A Job with the label of a queue is created suspended. On admission Kueue adds the
flavor's node selector and a label of its own to the pod template and sets `suspend` to false. On preemption it sets
`suspend` to true, takes `status.startTime` out, then its additions, which Kubernetes 1.37 refuses while a pod is
active, and at last says why in an event of the Job. The quota is free once no pod is active; one that ends is not.
"""

from __future__ import annotations

from datetime import UTC, datetime

from harness.operator_process import eventually
from loraline_operator import errors, naming
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster

FLAVOR = {"cloud.example/flavor": "spot"}
POD_LABELS = {"kueue.x-k8s.io/podset": "main"}
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
STOPPING = "kueue.x-k8s.io/stopping"
PRIORITIES = {"low": 100, "high": 1000}
"""Values of the WorkloadPriorityClasses; a Job without one has 0."""


class Kueue:
    """The queues of one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, quota: int) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.quota = quota
        """Pods that may run at once."""

    async def schedule(self) -> None:
        """Lets in, most important and then oldest first, what fits as a whole into the quota."""
        jobs = await self.jobs()
        used = sum(job["spec"]["parallelism"] for job in jobs if holds_quota(job))
        for job in jobs:
            if not holds_quota(job) and used + job["spec"]["parallelism"] <= self.quota:
                used += job["spec"]["parallelism"]
                await self._patch(job, {"suspend": False, "template": template(FLAVOR, POD_LABELS)})

    async def preempt(self, name: str) -> None:
        """Stops a Job that was let in."""
        job = next(job for job in await self.jobs() if job["metadata"]["name"] == name)
        job = await self._patch(job, {"suspend": True}, {STOPPING: "true"})
        await self._forget_start(job)
        await eventually(lambda: self._is_restored(job), f"Job {name} is as it was before it was let in")
        await self._tell(job, "Stopped", "Preempted to accommodate a workload of higher priority")

    async def jobs(self) -> list[Manifest]:
        """The Jobs that have not ended and name a queue, the most important first, then by age."""
        found = [
            job
            async for job in self._cluster.list(Kind.JOB, self._namespace, labels=naming.KUEUE_QUEUE_LABEL)
            if not any(c["status"] == "True" and c["type"] in ("Complete", "Failed") for c in conditions(job))
        ]
        return sorted(found, key=lambda job: (-priority(job), job["metadata"]["creationTimestamp"]))

    async def _forget_start(self, job: Manifest) -> None:
        while True:
            fresh = await self._cluster.get(self._ref(job))
            if fresh is None or not fresh["status"].pop("startTime", None):
                return
            try:
                await self._cluster.replace(self._ref(job), fresh, subresource="status")
            except errors.Conflict:
                continue

    async def _is_restored(self, job: Manifest) -> bool:
        taken_out = template(dict.fromkeys(FLAVOR), dict.fromkeys(POD_LABELS))
        try:
            await self._patch(job, {"template": taken_out}, {STOPPING: None})
        except errors.Invalid:
            return False
        return True

    def _ref(self, job: Manifest) -> Ref:
        return Ref(Kind.JOB, self._namespace, job["metadata"]["name"])

    async def _patch(
        self, job: Manifest, spec: Manifest, annotations: dict[str, str] | dict[str, None] | None = None
    ) -> Manifest:
        body = {"metadata": {"annotations": annotations or {}}, "spec": spec}
        return await self._cluster.patch(self._ref(job), body, uid=job["metadata"]["uid"])

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


def template(selector: Manifest, labels: Manifest) -> Manifest:
    """A change of a pod template."""
    return {"metadata": {"labels": labels}, "spec": {"nodeSelector": selector}}


def holds_quota(job: Manifest) -> bool:
    """Whether it was let in, or was stopped and still has active pods."""
    return not job["spec"]["suspend"] or bool(job.get("status", {}).get("active"))


def priority(job: Manifest) -> int:
    """The value of the Job's WorkloadPriorityClass."""
    return PRIORITIES.get(job["metadata"]["labels"].get(PRIORITY_LABEL, ""), 0)
