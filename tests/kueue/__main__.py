"""`python -m kueue`: the operator beside Kueue's own controller, on the built-in control plane.

CI plays Kueue's part with a stand-in (tests/harness/kueue.py); this holds both against the real one. It prints what our
status and Kueue say at each turn, and ends with an error where they do not agree. No pod really runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import fixture
from demo.kubectl import condition
from harness import operator_process as harness
from harness.operator_process import OperatorProcess, Tenant, eventually
from kueue import controller
from kueue.controller import Kueue
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest
from loraline_operator.cluster import Cluster

TENANT = "support"
FLAVOR = {"cloud.example/flavor": "spot"}
PRIORITIES = {"low": 100, "high": 1000}
NODE: Manifest = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "spot-1", "labels": FLAVOR}}
"""Without one, pods that are said to be on it are collected as garbage."""


def quota(**spec: Any) -> list[Manifest]:
    """A queue with room for one GPU, of a flavor that is a kind of node; higher priorities make room for themselves."""
    api = {"apiVersion": "kueue.x-k8s.io/v1beta2"}
    here = {"name": "gpus", "namespace": TENANT}
    gpus = {"name": "nvidia.com/gpu", "nominalQuota": 1}
    group = {"coveredResources": ["nvidia.com/gpu"], "flavors": [{"name": "spot", "resources": [gpus]}]}
    preemption = {"withinClusterQueue": "LowerPriority"}
    cluster_queue = {"namespaceSelector": {}, "resourceGroups": [group], "preemption": preemption, **spec}
    return [
        {**api, "kind": "ResourceFlavor", "metadata": {"name": "spot"}, "spec": {"nodeLabels": FLAVOR}},
        {**api, "kind": "ClusterQueue", "metadata": {"name": "all-gpus"}, "spec": cluster_queue},
        {**api, "kind": "LocalQueue", "metadata": here, "spec": {"clusterQueue": "all-gpus"}},
        *(
            {**api, "kind": "WorkloadPriorityClass", "metadata": {"name": name}, "value": value}
            for name, value in PRIORITIES.items()
        ),
    ]


class Story:
    """What happens to fine-tunes with one GPU's quota."""

    def __init__(self, tenant: Tenant, kueue: Kueue) -> None:
        self._tenant = tenant
        self._kueue = kueue
        self._began = time.monotonic()

    async def play(self) -> None:
        """Plays it.

        Raises:
            AssertionError: our status, the Job or Kueue's Workload is not as promised.
        """
        self._kueue.apply(NODE, *quota(stopPolicy="Hold"))
        await self._waits_suspended()
        await self._is_let_in()
        await self._waits_behind()
        await self._is_preempted()
        await self._goes_on()
        await self._gives_its_place_away()
        await self._moves_to_another_queue()
        await self._asks_for_what_the_queue_lacks()
        await self._leaves_nothing()

    async def _waits_suspended(self) -> None:
        await self._create("first", "low")
        status = await self._tenant.until("Pending", "Queued", "first")
        job = await self._job("first")
        assert job["spec"]["suspend"] is True
        assert await self._tenant.live_pods("first") == []
        await self._until_workload("first", lambda one: condition(one, "QuotaReserved") is not None)
        self._tell("a queue on hold: the Job is created suspended", "first", status)

    async def _is_let_in(self) -> None:
        self._kueue.apply(*quota())
        await self._starts("first")
        status = await self._tenant.until("Running", name="first")
        pod = await self._tenant.pod(finetune="first")
        assert pod["spec"]["nodeSelector"] == FLAVOR, pod["spec"].get("nodeSelector")
        self._tell("the hold is over: Kueue lets it in, on the flavor's nodes", "first", status)

    async def _waits_behind(self) -> None:
        await self._create("second", "low")
        status = await self._tenant.until("Pending", "Queued", "second")
        await self._until_workload("second", lambda one: "insufficient" in str(condition(one, "QuotaReserved")))
        self._tell("one more than the quota holds", "second", status)

    async def _is_preempted(self) -> None:
        before = await self._job("first")
        await self._create("urgent", "high")
        status = await self._tenant.until("Pending", "Preempted", "first")
        pods = await self._pods("first")
        assert all("deletionTimestamp" in pod["metadata"] for pod in pods)
        await self._until_workload("urgent", lambda one: is_true(one, "Admitted"))
        self._say(
            f"a higher priority: the first is stopped; {len(pods)} of its pods still ends, and its quota is taken"
        )
        status = await self._until_told("first", "Preempted to accommodate")
        self._tell("Kueue has said why", "first", status)
        job = await self._job("first")
        assert job["metadata"]["uid"] == before["metadata"]["uid"]
        assert job["spec"]["suspend"] is True
        template = job["spec"]["template"]["spec"]
        self._say(
            f"its Job: suspend {job['spec']['suspend']}, startTime {job['status'].get('startTime')}, "
            f"nodeSelector {template.get('nodeSelector')}, annotations {job['metadata'].get('annotations')}"
        )
        await self._say_events("first")
        assert status.run is not None
        assert (status.run.attempt, status.run.failures) == (1, 0)
        await self._kubelet_ends("first")
        await self._starts("urgent")
        self._tell("the higher priority runs", "urgent", await self._tenant.until("Running", name="urgent"))

    async def _until_told(self, name: str, words: str) -> LoraFineTuneStatus:
        async def look() -> LoraFineTuneStatus | None:
            status = await self._tenant.status(name)
            return status if words in status.conditions[0].message else None

        return await eventually(look, f"the status of {name} says: {words}")

    async def _goes_on(self) -> None:
        await self._ends("urgent")
        self._tell("it has ended", "urgent", await self._tenant.until("Succeeded", name="urgent"))
        await self._starts("first")
        status = await self._tenant.until("Running", name="first")
        assert status.run is not None
        assert (status.run.attempt, status.run.failures) == (1, 0)
        self._tell("the older of the two that wait goes on", "first", status)
        waits = await self._tenant.until("Pending", "Queued", "second")
        self._tell("and the other waits on", "second", waits)

    async def _gives_its_place_away(self) -> None:
        await self._tenant.edit({"suspend": True}, "first")
        self._tell("suspended by its owner", "first", await self._tenant.until("Suspended", name="first"))
        await self._kubelet_ends("first")
        await self._starts("second")
        self._tell("the next has its place", "second", await self._tenant.until("Running", name="second"))
        await self._tenant.edit({"suspend": False}, "first")
        self._tell("resumed: queued anew", "first", await self._tenant.until("Pending", "Queued", "first"))

    async def _moves_to_another_queue(self) -> None:
        before = await self._job("first")
        labels = {"metadata": {"labels": {naming.KUEUE_QUEUE_LABEL: "nowhere"}}}
        await self._tenant.cluster.patch(self._tenant.ref(Kind.FINE_TUNE, "first"), labels)

        async def other() -> bool:
            found = await self._found("first")
            return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

        await eventually(other, "another Job of first")
        status = await self._tenant.until("Pending", "Queued", "first")
        await self._until_workload("first", lambda one: "doesn't exist" in str(condition(one, "QuotaReserved")))
        self._tell("moved to a queue that is not there", "first", status)

    async def _asks_for_what_the_queue_lacks(self) -> None:
        await self._create("wide", "low", requests={"cpu": "4"})
        status = await self._tenant.until("Pending", "Queued", "wide")
        await self._until_workload("wide", lambda one: "cpu" in str(condition(one, "QuotaReserved")))
        self._tell("requests that the ClusterQueue does not cover", "wide", status)

    async def _leaves_nothing(self) -> None:
        for name in ("first", "second", "urgent", "wide"):
            await self._tenant.delete(Kind.FINE_TUNE, name)
        await self._kubelet_ends("second")

        async def is_empty() -> bool:
            return not any([await self._tenant.names(kind) for kind in (Kind.JOB, Kind.POD, Kind.FINE_TUNE)])

        await eventually(is_empty, "no Job, pod and fine-tune is left")

        async def no_workload() -> bool:
            return self._kueue.list("workloads", TENANT) == []

        await eventually(no_workload, "no Workload is left")
        self._say("all are deleted, one of them running: no Job, pod or Workload is left")

    async def _create(self, name: str, priority: str, **compute: Any) -> None:
        labels = {naming.KUEUE_QUEUE_LABEL: "gpus", "kueue.x-k8s.io/priority-class": priority}
        spec = {"compute": {"gpus": 1, **compute}, "output": {"uri": f"s3://adapters/{name}"}, "retries": 0}
        await self._tenant.create_finetune(name, labels=labels, **spec)
        await self._until_workload(name, lambda one: one["spec"]["priority"] == PRIORITIES[priority])

    async def _starts(self, name: str) -> None:
        """The parts of scheduler and kubelet: the pod runs on a node."""
        pod = await self._tenant.pod(finetune=name)
        name_of_pod = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE["metadata"]["name"]}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name_of_pod}, "target": target}
        self._kueue.post(f"/api/v1/namespaces/{TENANT}/pods/{name_of_pod}/binding", binding)
        await self._tenant.start_this(pod)

    async def _ends(self, name: str) -> None:
        """The kubelet's part: the trainer has published."""
        await self._tenant.end_this(await self._tenant.pod(finetune=name), 0)

    async def _kubelet_ends(self, name: str) -> None:
        """The kubelet's part: what was asked to end has ended, and is gone."""

        async def ended() -> bool:
            pods = await self._pods(name)
            for pod in pods:
                if "deletionTimestamp" in pod["metadata"]:
                    self._kueue.kill(TENANT, pod["metadata"]["name"])
            return not pods

        await eventually(ended, f"the pods of {name} are gone")

    async def _pods(self, name: str) -> list[Manifest]:
        labels = f"{naming.FINETUNE_LABEL}={name}"
        return [pod async for pod in self._tenant.cluster.list(Kind.POD, TENANT, labels=labels)]

    async def _found(self, name: str) -> Manifest | None:
        labels = f"{naming.FINETUNE_LABEL}={name}"
        jobs = [job async for job in self._tenant.cluster.list(Kind.JOB, TENANT, labels=labels)]
        return next((job for job in jobs if "deletionTimestamp" not in job["metadata"]), None)

    async def _job(self, name: str) -> Manifest:
        async def look() -> Manifest | None:
            return await self._found(name)

        return await eventually(look, f"a Job of {name}")

    def _workload(self, job: Manifest) -> Manifest | None:
        owned = (
            one
            for one in self._kueue.list("workloads", TENANT)
            if any(owner["uid"] == job["metadata"]["uid"] for owner in one["metadata"].get("ownerReferences", []))
        )
        return next(owned, None)

    async def _until_workload(self, name: str, holds: Callable[[Manifest], bool]) -> Manifest:
        job = await self._job(name)

        async def look() -> Manifest | None:
            workload = self._workload(job)
            return workload if workload is not None and holds(workload) else None

        return await eventually(look, f"the Workload of {name}: {self._workload(job)}")

    def _tell(self, what: str, name: str, status: LoraFineTuneStatus) -> None:
        ready = status.conditions[0]
        self._say(f"{what}\n      {name}: {status.phase}, {ready.reason}: {ready.message}")
        self._say_kueue(name)

    def _say_kueue(self, name: str) -> None:
        workload = next((one for one in self._kueue.list("workloads", TENANT) if name in one["metadata"]["name"]), None)
        found = workload.get("status", {}).get("conditions", []) if workload is not None else []
        for one in found:
            sys.stdout.write(f"      Kueue: {one['type']} {one['status']}, {one['reason']}: {one['message']}\n")

    async def _say_events(self, name: str) -> None:
        job = await self._job(name)
        fields = f"involvedObject.uid={job['metadata']['uid']}"
        async for event in self._tenant.cluster.list(Kind.EVENT, TENANT, fields=fields):
            sys.stdout.write(f"      event of the Job: {event['reason']}: {event['message']}\n")

    def _say(self, text: str) -> None:
        sys.stdout.write(f"{time.monotonic() - self._began:5.1f} {text}\n")
        sys.stdout.flush()


def is_true(workload: Manifest, kind: str) -> bool:
    """Whether a condition holds."""
    found = condition(workload, kind)
    return found is not None and found["status"] == "True"


async def _play(kubeconfig: Path, folder: Path, kueue: Kueue) -> None:
    os.environ["KUBECONFIG"] = str(kubeconfig)
    operator = OperatorProcess(kubeconfig, folder / "operator.log")
    await operator.start()
    try:
        await eventually(operator.is_leading, f"the operator leads: {operator.log}")
        async with Cluster() as connection:
            await Story(Tenant(connection, TENANT), kueue).play()
        assert await operator.stop() == 0
        assert "Traceback" not in operator.log.read_text(encoding="utf-8")
    finally:
        await operator.kill()


def main() -> int:
    """Plays the story once."""
    parser = argparse.ArgumentParser(prog="kueue", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the logs in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loraline-kueue-") as made:
        folder = (options.folder or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with fixture.control_plane(folder / "cluster") as kubeconfig:
            harness.install_crds(kubeconfig)
            for namespace in (harness.OPERATOR_NAMESPACE, TENANT):
                harness.kubectl(kubeconfig, "create", "namespace", namespace)
            with controller.running(kubeconfig, folder) as kueue:
                asyncio.run(_play(kubeconfig, folder, kueue))
    return 0


if __name__ == "__main__":
    sys.exit(main())
