"""Runs the operator as a real process against the real API server, and plays the kubelet's part in pod statuses.

The Job controller, the scheduler and the garbage collector are real; there is no kubelet, so pods start and end here.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from cluster import fixture
from harness.door import Door
from loraline_api import conditions
from loraline_api.conditions import ConditionType
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_api.outcome import Outcome
from loraline_operator import errors, lease, naming, observed, observed_finetune
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster

REPOSITORY = Path(__file__).parents[2]
OPERATOR_NAMESPACE = "loraline-system"
LEASE = Ref(Kind.LEASE, OPERATOR_NAMESPACE, lease.NAME)
VERSION = "4c47e0cfb45a"
LIMIT_S = 180.0
PATIENCE_S: ContextVar[float] = ContextVar("patience_s", default=LIMIT_S)
"""Longest wait of `eventually`, unless it is told another."""

STEP_S = 0.05

T = TypeVar("T")


def kubectl(kubeconfig: Path, *arguments: str) -> None:
    """Runs kubectl as the administrator."""
    command = [str(fixture.programs() / "kubectl"), f"--kubeconfig={kubeconfig}", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def install_crds(kubeconfig: Path) -> None:
    """Applies our CRDs and waits until they are served."""
    files = [f"--filename={path}" for path in sorted((REPOSITORY / "crds").glob("*.yaml"))]
    kubectl(kubeconfig, "apply", *files)
    kubectl(kubeconfig, "wait", "--for=condition=Established", "--timeout=30s", *files)


def api_requests(metrics: str) -> Counter[str]:
    """Requests to the API server that an operator counts in its metrics, by method; opening a watch is none."""
    counted: Counter[str] = Counter()
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "loraline_api_requests_total":
                counted[sample.labels["method"]] += int(sample.value)
    return counted


def through(door: Door, folder: Path) -> Path:
    """A kubeconfig that leads through the door."""
    return fixture.kubeconfig(folder / "door.kubeconfig", f"http://127.0.0.1:{door.port}")


async def eventually(
    look: Callable[[], Awaitable[T | None]],
    what: str,
    limit_s: float | None = None,
    last: Callable[[], object] = str,
) -> T:
    """The first result that is not None or False; `last` tells what was there when the time is over."""
    limit_s = limit_s or PATIENCE_S.get()
    end = asyncio.get_running_loop().time() + limit_s
    while True:
        result = await look()
        if result:
            return result
        if asyncio.get_running_loop().time() > end:
            raise AssertionError(f"not within {limit_s:.0f} s: {what} {last()}")
        await asyncio.sleep(STEP_S)


@dataclass
class OperatorProcess:
    """One replica."""

    kubeconfig: Path
    log: Path
    port: int = field(default_factory=fixture.free_port)
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it; `is_leading` tells when it reconciles."""
        paths = os.pathsep.join(str(REPOSITORY / folder) for folder in ("crds", "operator"))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-m", "loraline_operator", *self.command()),
                env={**os.environ, "KUBECONFIG": str(self.kubeconfig), "PYTHONPATH": paths, **self.environment},
                stdout=log,
                stderr=log,
            )

    def command(self) -> tuple[str, ...]:
        """What its program is told."""
        return (
            "run",
            *("--trainer-image", "trainer:1", "--switchboard-image", "operator:1", "--server-image", "vllm:1"),
            *("--namespace", OPERATOR_NAMESPACE, "--listen", f"127.0.0.1:{self.port}"),
            *("--progress-interval-s", "0.5", "--dataset-interval-s", "1"),
            *("--first-retry-delay-s", "5"),  # long enough that a busy machine sees what is said meanwhile
            *("--lease-duration-s", "60"),  # a starved machine must not end a test's leader
            *self.arguments,
        )

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.returncode is None

    async def get(self, path: str) -> tuple[int, str]:
        """An answer of its probes; 0 when nobody listens yet."""
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def is_leading(self) -> bool:
        """Whether it is ready as the leader."""
        code, text = await self.get("/readyz")
        return code == 200 and bool(json.loads(text)["leader"])

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 60)

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def memory_bytes(self) -> int:
        """Its resident memory."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))


class Replicas:
    """The replicas of one test."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._processes: list[OperatorProcess] = []

    async def start(self, *arguments: str, kubeconfig: Path | None = None) -> OperatorProcess:
        """Starts another replica."""
        log = self._folder / f"operator-{len(self._processes)}.log"
        process = OperatorProcess(kubeconfig or self._kubeconfig, log, arguments=arguments)
        self._processes.append(process)
        await process.start()
        return process

    async def lead(self, *arguments: str, kubeconfig: Path | None = None) -> OperatorProcess:
        """Starts another replica, which is to lead, and waits until it does."""
        process = await self.start(*arguments, kubeconfig=kubeconfig)
        await eventually(process.is_leading, f"the operator leads: {process.log}")
        return process

    async def stop(self) -> None:
        """Stops those that run; each ends with exit code 0."""
        for process in self._processes:
            if process.is_running:
                assert await process.stop() == 0, process.log.read_text(encoding="utf-8")

    async def kill(self) -> None:
        """Ends those that run."""
        for process in self._processes:
            await process.kill()

    def logs(self) -> str:
        """What all of them logged."""
        return "".join(process.log.read_text(encoding="utf-8") for process in self._processes)


class PodGone(Exception):
    """A pod whose status is to be written is gone."""


class Tenant:
    """One namespace of one test, and the hands of user and kubelet in it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def ref(self, kind: Kind, name: str) -> Ref:
        """An object of the namespace."""
        return Ref(kind, self.namespace, name)

    async def create_finetune(self, name: str = "tickets", labels: dict[str, str] | None = None, **spec: Any) -> None:
        """Applies a fine-tune."""
        body = {
            "apiVersion": "loraline.dev/v1alpha1",
            "kind": "LoraFineTune",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels or {}},
            "spec": {
                "baseModel": {"uri": "hf://org/model"},
                "dataset": {"train": {"uri": "s3://data/train.jsonl"}},
                "output": {"uri": "s3://adapters/tickets"},
                "compute": {"gpus": 0},
                **spec,
            },
        }
        await self.cluster.create(self.ref(Kind.FINE_TUNE, name), body)

    async def create_data(self, name: str, data: dict[str, str], labels: dict[str, str] | None = None) -> None:
        """Creates a ConfigMap."""
        metadata = {"name": name, "namespace": self.namespace, "labels": labels or {}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        await self.cluster.create(self.ref(Kind.CONFIG_MAP, name), body)

    async def edit(self, spec: Manifest, name: str = "tickets") -> None:
        """Changes the spec of a fine-tune."""
        await self.cluster.patch(self.ref(Kind.FINE_TUNE, name), {"spec": spec})

    async def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object."""
        manifest = await self.cluster.get(self.ref(kind, name))
        assert manifest is not None
        await self.cluster.delete(self.ref(kind, name), manifest["metadata"]["uid"])

    async def status(self, name: str = "tickets") -> LoraFineTuneStatus:
        """The status of a fine-tune."""
        manifest = await self.cluster.get(self.ref(Kind.FINE_TUNE, name))
        assert manifest is not None
        return observed.finetune(manifest).status

    async def until(self, phase: str, reason: str | None = None, name: str = "tickets") -> LoraFineTuneStatus:
        """Waits for a phase, and for a reason of Ready, of the newest generation."""

        async def look() -> LoraFineTuneStatus | None:
            manifest = await self.cluster.get(self.ref(Kind.FINE_TUNE, name))
            assert manifest is not None
            status = observed.finetune(manifest).status
            ready = conditions.find(tuple(status.conditions), ConditionType.READY)
            is_new = status.observed_generation == manifest["metadata"]["generation"]
            matches = status.phase == phase and (reason is None or (ready is not None and ready.reason == reason))
            return status if is_new and matches else None

        return await eventually(look, f"phase {phase}, reason {reason}: {await self.status(name)}")

    async def names(self, kind: Kind) -> list[str]:
        """Names of all objects of a kind."""
        return sorted([item["metadata"]["name"] async for item in self.cluster.list(kind, self.namespace)])

    async def jobs(self) -> list[str]:
        """Names of the Jobs, in the order of their creation."""
        items = [item async for item in self.cluster.list(Kind.JOB, self.namespace)]
        items.sort(key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"]))
        return [item["metadata"]["name"] for item in items]

    async def pod(
        self, job: str | None = None, finetune: str | None = None, *, after: Manifest | None = None
    ) -> Manifest:
        """Waits for the pod that the Job controller makes; `after` is an earlier one, which may take its time to go."""
        named = {"batch.kubernetes.io/job-name": job, naming.FINETUNE_LABEL: finetune}
        labels = ",".join(f"{label}={name}" for label, name in named.items() if name)

        async def look() -> Manifest | None:
            live = await self._live_pods(labels)
            return next(
                (pod for pod in live if after is None or pod["metadata"]["uid"] != after["metadata"]["uid"]), None
            )

        return await eventually(look, f"a pod of {labels or 'any Job'}")

    async def start_this(self, pod: Manifest, ip: str | None = None) -> Manifest:
        """The kubelet's part: the container of this pod runs."""
        return await self._set_pod(pod, "Running", {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, ip)

    async def live_pods(self, finetune: str) -> list[Manifest]:
        """The pods of a fine-tune that have not ended and are not asked to, by the number of their node."""
        live = await self._live_pods(f"{naming.FINETUNE_LABEL}={finetune}")
        return sorted(live, key=lambda pod: observed_finetune.pod(pod).index)

    async def _live_pods(self, labels: str) -> list[Manifest]:
        pods = [item async for item in self.cluster.list(Kind.POD, self.namespace, labels=labels or None)]
        live = [pod for pod in pods if pod["status"]["phase"] not in ("Succeeded", "Failed")]
        return [pod for pod in live if "deletionTimestamp" not in pod["metadata"]]

    async def start_pod(self, ip: str | None = None, job: str | None = None, finetune: str | None = None) -> Manifest:
        """The kubelet's part: the container runs."""
        return await self.start_this(await self.pod(job, finetune), ip)

    async def end_pod(
        self,
        code: int,
        message: str = "",
        *,
        reason: str = "Error",
        job: str | None = None,
        text: str | None = None,
        version: str = VERSION,
    ) -> Manifest:
        """The kubelet's part: the container has ended with this exit code and termination message."""
        return await self.end_this(await self.pod(job), code, message, reason=reason, text=text, version=version)

    async def end_this(
        self,
        pod: Manifest,
        code: int,
        message: str = "",
        *,
        reason: str = "Error",
        text: str | None = None,
        version: str = VERSION,
    ) -> Manifest:
        """The same for a pod that is known."""
        run_id = pod["metadata"]["labels"].get("loraline.dev/run", "")  # the pod that deletes the output has none
        outcome = Outcome(run_id=run_id, exit_code=code, message=message)
        if code == 0:
            uri = f"s3://adapters/tickets/adapters/{version}"
            outcome = Outcome(run_id=run_id, exit_code=0, version=version, uri=uri, steps=24, train_loss="0.03")
        words = outcome.encode().decode() if text is None else text
        times = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}
        ended = {"exitCode": code, "message": words, "reason": "Completed" if code == 0 else reason, **times}
        state = {"terminated": ended}
        return await self._set_pod(pod, "Failed" if code else "Succeeded", state, None)

    async def _set_pod(self, pod: Manifest, phase: str, state: Manifest, ip: str | None) -> Manifest:
        container = {"name": "trainer", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        status: Manifest = {"phase": phase, "containerStatuses": [container]}
        if ip is not None:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        return await self.set_pod_status(pod["metadata"]["name"], status)

    async def set_pod_status(self, name: str, status: Manifest) -> Manifest:
        """Changes parts of a pod's status; the scheduler writes there too, so a conflict is tried again."""
        ref = self.ref(Kind.POD, name)

        async def write() -> Manifest | None:
            current = await self.cluster.get(ref)
            if current is None:
                raise PodGone(name)
            body = current | {"status": current["status"] | status}
            try:
                return await self.cluster.replace(ref, body, subresource="status")
            except errors.Conflict:
                return None
            except errors.NotFound as error:
                raise PodGone(name) from error

        return await eventually(write, f"the status of pod {name} is written")
