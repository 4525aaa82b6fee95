"""Two things at once on a real API server: the pairs in which its controllers, finalizers and conflicts have a say.

Every pair from every state is played in memory in tests/unit/operator/test_plan_pairs.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from harness.operator_process import PodGone, Tenant, eventually
from loraline_api import run as api_run
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import naming, observed
from loraline_operator.actions import Kind, Manifest

pytestmark = pytest.mark.usefixtures("operator")

LIMIT_S = 120.0
"""All pairs are played at the same time, and a retry waits for ten seconds."""


class Subject:
    """One fine-tune, and the hands of its user, of the kubelet and of fate."""

    def __init__(self, tenant: Tenant, name: str) -> None:
        self.tenant = tenant
        self.name = name
        self.edits = 0
        self.may_fail = False

    async def suspend(self) -> None:
        await self.tenant.edit({"suspend": True}, self.name)

    async def resume(self) -> None:
        await self.tenant.edit({"suspend": False}, self.name)

    async def edit(self) -> None:
        self.edits += 1
        await self.tenant.edit({"training": {"seed": 100 + self.edits}}, self.name)

    async def revert(self) -> None:
        await self.tenant.edit({"training": {"seed": 42}}, self.name)

    async def restart(self) -> None:
        self.edits += 1
        annotations = {naming.RESTART_ANNOTATION: str(self.edits)}
        await self.tenant.cluster.patch(self._ref, {"metadata": {"annotations": annotations}})

    async def move(self) -> None:
        self.edits += 1
        await self.tenant.edit({"compute": {"requests": {"cpu": f"{100 + self.edits}m"}}}, self.name)

    async def shorten_deadline(self) -> None:
        self.may_fail = True
        await self.tenant.edit({"activeDeadlineSeconds": 1}, self.name)

    async def delete(self) -> None:
        await self.tenant.delete(Kind.FINE_TUNE, self.name)

    async def lose_job(self) -> None:
        for job in await self._jobs():
            await self.tenant.cluster.delete(self.tenant.ref(Kind.JOB, job["metadata"]["name"]), job["metadata"]["uid"])

    async def fail(self) -> None:
        await self._end_pods(40)

    async def fail_for_good(self) -> None:
        self.may_fail = True
        await self._end_pods(12)

    async def succeed(self) -> None:
        await self._end_pods(0)

    async def object(self) -> tuple[Manifest, LoraFineTuneStatus]:
        """The fine-tune as it is."""
        manifest = await self.tenant.cluster.get(self._ref)
        assert manifest is not None
        return manifest, observed.finetune(manifest).status

    async def is_deleted(self) -> bool:
        """Whether somebody deleted it."""
        manifest = await self.tenant.cluster.get(self._ref)
        return manifest is None or "deletionTimestamp" in manifest["metadata"]

    async def is_gone(self) -> bool:
        """Whether nothing of it is left; the kubelet ends what is asked to end."""
        await self._end_pods(41)
        return await self.tenant.cluster.get(self._ref) is None and not await self._jobs()

    async def until(self, *phases: str) -> LoraFineTuneStatus:
        """Waits until the operator has answered the newest spec with one of these phases, for the run it asks for."""

        async def look() -> LoraFineTuneStatus | None:
            manifest, status = await self.object()
            is_answered = status.observed_generation == manifest["metadata"]["generation"]
            is_answered = is_answered and status.run is not None and status.run.id == wanted_run(manifest)
            return status if is_answered and status.phase in phases else None

        return await eventually(look, f"{self.name} in {phases}: {(await self.object())[1]}", LIMIT_S)

    async def play(self) -> LoraFineTuneStatus:
        """The kubelet runs every pod to its good end, until the run has ended."""

        async def look() -> LoraFineTuneStatus | None:
            await self._end_pods(0)
            manifest, status = await self.object()
            is_new = status.observed_generation == manifest["metadata"]["generation"]
            is_wanted = status.run is not None and status.run.id == wanted_run(manifest)
            return status if is_new and is_wanted and status.phase in ("Succeeded", "Failed") else None

        return await eventually(look, f"{self.name} ends: {(await self.object())[1]}", LIMIT_S)

    async def has_no_pod(self) -> bool:
        """Whether no container runs."""
        pods = self.tenant.cluster.list(Kind.POD, self.tenant.namespace, labels=self._labels)
        return not [pod async for pod in pods if is_live(Kind.POD, pod)]

    @property
    def _ref(self) -> Any:
        return self.tenant.ref(Kind.FINE_TUNE, self.name)

    @property
    def _labels(self) -> str:
        return f"{naming.FINETUNE_LABEL}={self.name}"

    async def _jobs(self) -> list[Manifest]:
        return [item async for item in self.tenant.cluster.list(Kind.JOB, self.tenant.namespace, labels=self._labels)]

    async def _end_pods(self, code: int) -> None:
        """The containers that there are end; none may be there."""
        pods = self.tenant.cluster.list(Kind.POD, self.tenant.namespace, labels=self._labels)
        async for pod in pods:
            if pod["status"]["phase"] in ("Succeeded", "Failed"):
                continue
            with contextlib.suppress(PodGone):  # the Job controller was quicker
                await self.tenant.end_this(pod, code)


def wanted_run(manifest: Manifest) -> str:
    """Id of the run that an object asks for."""
    object = observed.finetune(manifest)
    assert object.spec is not None
    restart = object.meta.annotations.get(naming.RESTART_ANNOTATION)
    return api_run.resolve(object.meta.name, object.meta.namespace, object.spec, data_digests={}, restart=restart).id


async def new(subject: Subject) -> None:
    """Nothing has been seen yet."""


async def running(subject: Subject) -> None:
    await subject.tenant.start_pod(finetune=subject.name)
    await subject.until("Running")


async def retrying(subject: Subject) -> None:
    await running(subject)
    await subject.fail()
    await subject.until("Pending")


async def suspended(subject: Subject) -> None:
    await running(subject)
    await subject.suspend()
    await subject.until("Suspended")


async def succeeded(subject: Subject) -> None:
    await subject.until("Pending")
    await subject.play()


async def failed(subject: Subject) -> None:
    await running(subject)
    await subject.fail_for_good()
    await subject.until("Failed")


State = Callable[[Subject], Awaitable[None]]
Step = Callable[[Subject], Awaitable[None]]

PAIRS: dict[str, tuple[State, Step, Step]] = {
    "suspend while an edit stops the old run": (running, Subject.edit, Subject.suspend),
    "edit while suspended, then resume": (suspended, Subject.edit, Subject.resume),
    "resume while suspending": (running, Subject.suspend, Subject.resume),
    "suspend before it was ever seen": (new, Subject.suspend, Subject.edit),
    "delete while resuming": (suspended, Subject.resume, Subject.delete),
    "delete while waiting for a retry": (retrying, Subject.edit, Subject.delete),
    "delete just before the pod ends well": (running, Subject.delete, Subject.succeed),
    "revert while the old run is stopped": (running, Subject.edit, Subject.revert),
    "revert to a success while another run trains": (succeeded, Subject.edit, Subject.revert),
    "restart in the middle of a retry": (retrying, Subject.restart, Subject.move),
    "suspend as the pod ends well": (running, Subject.succeed, Subject.suspend),
    "edit as the pod fails": (running, Subject.fail, Subject.edit),
    "suspend as the pod fails for good": (running, Subject.fail_for_good, Subject.suspend),
    "suspend as the Job is lost": (running, Subject.lose_job, Subject.suspend),
    "a deadline during a retry": (retrying, Subject.shorten_deadline, Subject.resume),
    "restart of a run that failed for good": (failed, Subject.restart, Subject.revert),
}


@pytest.fixture
async def sins(tenant: Tenant) -> AsyncIterator[list[str]]:
    """What was seen that may never be, while the test ran."""
    seen: list[str] = []
    successes: dict[str, set[str]] = {}

    async def watch() -> None:
        while True:
            for kind in (Kind.JOB, Kind.POD):
                live: Counter[str] = Counter()
                async for item in tenant.cluster.list(kind, tenant.namespace):
                    live[item["metadata"]["labels"][naming.FINETUNE_LABEL]] += is_live(kind, item)
                seen.extend(f"{name} has {number} live {kind}s" for name, number in live.items() if number > 1)
            async for item in tenant.cluster.list(Kind.FINE_TUNE, tenant.namespace):
                status = observed.finetune(item).status
                known = successes.setdefault(item["metadata"]["name"], set())
                if status.run is not None and status.phase == "Succeeded":
                    known.add(status.run.id)
                elif status.run is not None and status.run.id in known:
                    seen.append(f"{item['metadata']['name']}: run {status.run.id} had succeeded, and is {status.phase}")
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    yield seen
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


def is_live(kind: Kind, item: Manifest) -> bool:
    """Whether a Job may have a pod, or a pod runs."""
    if "deletionTimestamp" in item["metadata"]:
        return False
    if kind is Kind.POD:
        return bool(item["status"]["phase"] not in ("Succeeded", "Failed"))
    return observed_end(item) is None


def observed_end(job: Manifest) -> str | None:
    ends = [c["type"] for c in job.get("status", {}).get("conditions") or () if c["status"] == "True"]
    return next((end for end in ends if end in ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")), None)


async def test_two_things_at_once_end_as_the_spec_says(tenant: Tenant, sins: list[str]) -> None:
    """One attempt lives at a time, and no success is undone."""

    async def play(number: int, name: str) -> None:
        subject = Subject(tenant, f"pair-{number}")
        state, first, second = PAIRS[name]
        await tenant.create_finetune(subject.name, output={"uri": f"s3://adapters/{subject.name}"})
        await state(subject)
        await first(subject)
        await second(subject)
        if await subject.is_deleted():
            await eventually(subject.is_gone, f"{name}: nothing is left", LIMIT_S)
            return
        manifest, _ = await subject.object()
        if manifest["spec"]["suspend"]:
            await subject.until("Suspended", "Succeeded", "Failed")
            await eventually(subject.has_no_pod, f"{name}: no pod lives while suspended", LIMIT_S)
            await subject.resume()
        status = await subject.play()
        assert status.phase == "Succeeded" or subject.may_fail, (name, status)

    async with asyncio.TaskGroup() as group:
        for number, name in enumerate(PAIRS):
            group.create_task(play(number, name))
    assert sins == []
