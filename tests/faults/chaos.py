"""SIGKILL of the operator at random moments, for minutes, while a client creates, edits, suspends and deletes objects.

The plans kill at every point of a few flows; this kills at points that no flow has. Which operations come is the same
for a seed, when they and the kills come is not. Then everything may end, and it has to end clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from faults import ending
from faults.plans import Plan
from faults.play import LAST_EVENTS_S, Arena, Operators, operating, place
from faults.record import Record
from faults.stage import Stage
from harness.operator_process import PodGone, Tenant, eventually
from loraline_api import run as api_run
from loraline_operator import errors, naming, observed
from loraline_operator.actions import Kind, Manifest

MAX_ALIVE = 16
RANKS = (4, 8, 16, 32, 64)
SERVED = "tickets"
"""The fine-tune that the deployment serves: it is edited like the others, and never deleted or suspended."""

OPERATION_S = 0.4
"""Mean time between two operations of the client."""

LIFE_S = 3.0
"""Mean time between two kills."""

AT_A_WRITE = 0.5
"""Share of the kills that come right after one of the next writes, whichever that is."""

ATTEMPT_S = 4.0
"""Longest time that a played training pod runs."""

FAILING = 0.15
"""Share of the attempts that fail with what a retry can mend."""

LOOK_S = 0.1
WRITE_LOOK_S = 0.005
REST_LIMIT_S = 240.0
"""Longest time to the end when nothing is killed any more: a fourth attempt starts 70 s after the first."""


@dataclass
class Chaos:
    """What was done, and how it ended."""

    minutes: float
    seed: int
    kills: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    """Fine-tunes that were left at the end, by phase."""
    rest_s: float = 0.0
    """From the last kill to the end of all that ran."""
    problems: list[str] = field(default_factory=list)


async def unleash(arena: Arena, minutes: float, seed: int = 1) -> Chaos:
    """Kills and edits for so many minutes, lets everything end, and judges."""
    chaos = Chaos(minutes, seed)
    end = time.monotonic() + 60 * minutes
    async with place(arena) as (tenant, record):
        operators, stage = Operators(arena, Plan("chaos"), tenant), Stage(tenant)
        try:
            async with operating(operators), stage.pods.running(), _training(tenant, seed):
                await stage.deploy()
                await tenant.create_finetune(SERVED)
                async with asyncio.TaskGroup() as group:
                    group.create_task(_kill(operators, chaos, end))
                    group.create_task(_Client(tenant, chaos).work(end))
                await _judge_end(stage, record, operators, chaos)
                await _judge_deletion(tenant)
        except AssertionError as error:
            chaos.problems.append(f"stuck: {error!s:.600}")
        except Exception as error:  # what cannot be played does not end the plans beside it
            chaos.problems.append(f"not played: {error!r:.600}")
        chaos.problems += [*record.problems(), *operators.tracebacks()]
    return chaos


async def _kill(operators: Operators, chaos: Chaos, end: float) -> None:
    chance = random.Random()
    while time.monotonic() < end:
        due = time.monotonic() + chance.expovariate(1 / LIFE_S)
        writes = operators.writes() + chance.randint(1, 8) if chance.random() < AT_A_WRITE else None
        while time.monotonic() < due or (writes is not None and time.monotonic() < due + LIFE_S):
            if writes is not None and operators.writes() >= writes:
                break
            await asyncio.sleep(WRITE_LOOK_S if writes is not None else LOOK_S / 2)
        await operators.kill()
        chaos.kills += 1


class _Client:
    """The user: one operation after another, on fine-tunes that are there."""

    def __init__(self, tenant: Tenant, chaos: Chaos) -> None:
        self._tenant, self._chaos = tenant, chaos
        self._chance = random.Random(chaos.seed)
        self._numbers = itertools.count(1)
        self._names: list[str] = []
        self._suspended: set[str] = set()

    async def work(self, end: float) -> None:
        """Works until the end; then what is suspended goes on."""
        operations = (self._create, self._create, self._edit, self._edit, self._suspend, self._delete)
        while time.monotonic() < end:
            await self._chance.choice(operations)()
            await asyncio.sleep(self._chance.expovariate(1 / OPERATION_S))
        for name in self._suspended:
            await self._tenant.edit({"suspend": False}, name)

    def _count(self, what: str) -> None:
        self._chaos.operations[what] = self._chaos.operations.get(what, 0) + 1

    def _some(self) -> str | None:
        return self._chance.choice(self._names) if self._names else None

    async def _create(self) -> None:
        if len(self._names) < MAX_ALIVE:
            name = f"c{next(self._numbers)}"
            await self._tenant.create_finetune(name, adapter={"rank": self._chance.choice(RANKS)}, retries=3)
            self._names.append(name)
            self._count("created")

    async def _edit(self) -> None:
        name = self._chance.choice([*self._names, SERVED])
        await self._tenant.edit({"adapter": {"rank": self._chance.choice(RANKS)}}, name)
        self._count("edited")

    async def _suspend(self) -> None:
        name = self._some()
        if name is not None:
            self._suspended ^= {name}
            await self._tenant.edit({"suspend": name in self._suspended}, name)
            self._count("suspended" if name in self._suspended else "resumed")

    async def _delete(self) -> None:
        name = self._some()
        if name is not None:
            self._names.remove(name)
            self._suspended.discard(name)
            await self._tenant.delete(Kind.FINE_TUNE, name)
            self._count("deleted")


@contextlib.asynccontextmanager
async def _training(tenant: Tenant, seed: int) -> AsyncIterator[None]:
    """Plays the kubelet's part in training pods while the block runs: they start, run for a while, and end."""
    task = asyncio.create_task(_train(tenant, random.Random(seed + 1)))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _train(tenant: Tenant, chance: random.Random) -> None:
    due: dict[str, float] = {}
    while True:
        now = time.monotonic()
        async for pod in tenant.cluster.list(Kind.POD, tenant.namespace, labels=naming.FINETUNE_LABEL):
            uid, phase = pod["metadata"]["uid"], pod["status"].get("phase")
            if "deletionTimestamp" in pod["metadata"] or phase in ("Succeeded", "Failed"):
                continue
            with contextlib.suppress(errors.ApiError, PodGone, AssertionError):
                if phase == "Pending":
                    due[uid] = now + chance.uniform(0, ATTEMPT_S)
                    await tenant.start_this(pod)
                elif now > due.get(uid, now):
                    code = 40 if chance.random() < FAILING else 0
                    await tenant.end_this(pod, code, "S3 is down", version=_version(pod["metadata"]["labels"]))
        await asyncio.sleep(LOOK_S)


def _version(labels: Manifest) -> str:
    """The version of what a run publishes, the same for the same run."""
    return str(labels[naming.RUN_LABEL]).ljust(12, "0")


async def _judge_end(stage: Stage, record: Record, operators: Operators, chaos: Chaos) -> None:
    """Every fine-tune ends as its spec asks for, the deployment serves what it should, and then nothing is written."""
    started = time.monotonic()

    async def look() -> bool:
        return all(_is_at_rest(item) for item in record.items(Kind.FINE_TUNE))

    def unrest() -> list[object]:
        return [
            (item["metadata"]["name"], item["spec"].get("suspend"), (item.get("status") or {}).get("phase"))
            for item in record.items(Kind.FINE_TUNE)
            if not _is_at_rest(item)
        ]

    await eventually(look, "all fine-tunes are at rest", REST_LIMIT_S, unrest)
    served = await stage.tenant.status(SERVED)
    assert served.run is not None
    await stage.served(served.run.id.ljust(12, "0"))
    chaos.rest_s = round(time.monotonic() - started, 1)
    await asyncio.sleep(LAST_EVENTS_S)
    late = await operators.late_writes()
    if late:
        chaos.problems.append(f"wrote after the end: {', '.join(late)[:300]}")
    chaos.ended = dict(Counter(item["status"]["phase"] for item in record.items(Kind.FINE_TUNE)))
    chaos.problems += ending.World(record).orphans()
    for item in record.items(Kind.FINE_TUNE):
        chaos.problems += _mistakes(item, record)


def _is_at_rest(manifest: Manifest) -> bool:
    status = manifest.get("status") or {}
    is_new = status.get("observedGeneration") == manifest["metadata"]["generation"]
    return is_new and status.get("phase") in ("Succeeded", "Failed") and "deletionTimestamp" not in manifest["metadata"]


def _mistakes(manifest: Manifest, record: Record) -> list[str]:
    """In what a fine-tune at rest is otherwise than its spec says."""
    finetune = observed.finetune(manifest)
    meta, status, spec = finetune.meta, finetune.status, finetune.spec
    assert spec is not None
    wanted = api_run.resolve(meta.name, meta.namespace, spec, data_digests={}).id
    found = []
    if status.run is None or status.run.id != wanted:
        found.append(f"{meta.name} tells of run {status.run and status.run.id}, and its spec asks for {wanted}")
    if status.phase == "Succeeded" and (status.adapter is None or status.adapter.version != wanted.ljust(12, "0")):
        found.append(f"{meta.name} tells of adapter {status.adapter}, and its run {wanted} published another")
    for job in record.items(Kind.JOB):
        labels = job["metadata"].get("labels") or {}
        live = not [c for c in (job.get("status") or {}).get("conditions") or () if c["type"] in ("Complete", "Failed")]
        if labels.get(naming.FINETUNE_LABEL) == meta.name and live:
            found.append(f"Job {job['metadata']['name']} of {meta.name} lives on after its end")
    return found


async def _judge_deletion(tenant: Tenant) -> None:
    """Nothing is left when all objects are deleted."""
    for kind in (Kind.ADAPTER_DEPLOYMENT, Kind.FINE_TUNE):
        for name in await tenant.names(kind):
            await tenant.delete(kind, name)
    left: list[str] = []

    async def all_gone() -> bool:
        kinds = (Kind.FINE_TUNE, Kind.ADAPTER_DEPLOYMENT, Kind.JOB, Kind.POD, Kind.CONFIG_MAP, Kind.SERVICE)
        left[:] = [f"{kind} {name}" for kind in (*kinds, Kind.DEPLOYMENT) for name in await tenant.names(kind)]
        return not left

    await eventually(all_gone, "nothing is left of what was deleted, and not", last=lambda: left[:10])
