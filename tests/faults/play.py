"""Plays one plan on the shared control plane, in a namespace of its own, and judges how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster import fixture
from faults import ending
from faults.flows import flows
from faults.fork_server import ForkServer
from faults.mirror import Mirror
from faults.plans import Fault, Plan, Strike
from faults.proxy import OUTAGE_S, Proxy, Upstream
from faults.record import GAP, Record, Recorder
from faults.stage import Stage
from harness.operator_process import PATIENCE_S, OperatorProcess, Tenant, eventually
from loraline_operator import lease
from loraline_operator.actions import Kind, Ref
from loraline_operator.cluster import Cluster

TURNS = 3
"""How often a plan is played at most until it can be judged."""

STEP_LIMIT_S = 120.0
CONVERGE_S = 30.0
QUIET_S = 4.0
"""Longer than the resync interval."""

LOOK_S = 0.5
LAST_EVENTS_S = 1.0
"""Time in which the last events of a flow are on their way when its end is reached."""

OWED_EVENTS_S = 10.0
"""Time in which they come on a machine that stalls, if there are fewer than in the clean run; a kill loses some."""

RECOVERY_LIMIT_S = 15.0
RESTART_S = 0.2
ALL_WATCHES = frozenset({"lorafinetunes", "adapterdeployments", "deployments", "jobs", "pods", "configmaps"})
RESYNC_S = 3.0
ARGUMENTS = (
    *("--progress-interval-s", "0.5", "--dataset-interval-s", "1"),
    *("--first-retry-delay-s", "2", "--workers", "4"),
)
LEASE_S = {Fault.PAUSE: "5", Fault.OUTAGE: "15", Fault.LONG_OUTAGE: "15"}
"""Where the Lease matters; elsewhere it is a minute, as a starved machine must not end a leader."""

HOUR_S = {Fault.JUMP_FORWARD: "+3600", Fault.JUMP_BACK: "-3600"}
LIBFAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Reference:
    """How a flow ends without a fault."""

    ending: ending.Ending
    counts: Counter[str]
    writes: tuple[str, ...]
    events: tuple[str, ...]


@dataclass
class Result:
    """How a plan ended."""

    plan: str
    problems: list[str] = field(default_factory=list)
    was_struck: bool = True
    """Whether every point was reached; a flow may pass by a point that its clean run had."""
    seconds: float = 0.0
    recovery_s: float | None = None
    """From the end of an outage to the operator's first write."""
    restarts: int = 0

    @property
    def converged(self) -> bool:
        """Whether nothing was amiss."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Arena:
    """What all plans share: the control plane, the connections to it and the watches of it."""

    cluster: Cluster
    upstream: Upstream
    recorder: Recorder
    folder: Path
    forks: ForkServer


@dataclass
class Forked(OperatorProcess):
    """A replica that the fork server starts."""

    forks: ForkServer | None = None
    pid: int = 0
    end: asyncio.Future[int] | None = None

    async def start(self) -> None:
        """Starts it."""
        if self.environment or self.forks is None:  # a preloaded library needs a program of its own
            await super().start()
            assert self.process is not None
            self.pid, self.end = self.process.pid, asyncio.ensure_future(self.process.wait())
        else:
            environment = {"KUBECONFIG": str(self.kubeconfig)}
            self.pid, self.end = await self.forks.fork(self.command(), environment, self.log)

    async def wait(self) -> int:
        """Waits for its end; the exit code."""
        assert self.end is not None
        return await asyncio.shield(self.end)

    def signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.end is not None and not self.end.done():
            os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL."""
        self.signal(signal.SIGKILL)
        if self.end is not None:
            await self.wait()


class Operators:
    """The operator of one plan: processes that are started again when they end, as a kubelet would."""

    def __init__(self, arena: Arena, plan: Plan, tenant: Tenant, *, resync_s: float = RESYNC_S) -> None:
        self.plan = plan
        self._arguments = (*ARGUMENTS, "--resync-interval-s", str(resync_s))
        self._arena, self._tenant = arena, tenant
        self._replicas: list[Forked] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._may_start = asyncio.Event()
        self._may_start.set()
        self._clock = arena.folder / f"{tenant.namespace}.clock"
        self.proxies: list[Proxy] = []
        self.restarts = 0

    async def start(self, strikes: tuple[Strike, ...] = ()) -> None:
        """Starts another replica behind a proxy of its own."""
        proxy = Proxy(self._arena.upstream, strikes, self._struck)
        await proxy.open()
        self.proxies.append(proxy)
        name = f"{self._tenant.namespace}-{len(self._replicas)}"
        namespace = ("--namespaces", self._tenant.namespace, "--namespace", self._tenant.namespace)
        replica = Forked(
            fixture.kubeconfig(self._arena.folder / f"{name}.kubeconfig", f"http://127.0.0.1:{proxy.port}"),
            self._arena.folder / f"{name}.log",
            arguments=(*namespace, *self._arguments, *self._lease()),
            environment=self._faked_clock() if set(self.plan.faults) & set(HOUR_S) else {},
            forks=self._arena.forks,
        )
        self._replicas.append(replica)
        await replica.start()
        self._keepers.append(asyncio.create_task(self._keep(replica)))

    async def is_watching(self) -> bool:
        """Whether the first replica leads and watches all that it looks at."""
        return self.proxies[0].trace.watched >= ALL_WATCHES

    def _lease(self) -> tuple[str, ...]:
        durations = [LEASE_S[fault] for fault in self.plan.faults if fault in LEASE_S]
        return ("--lease-duration-s", durations[0]) if durations else ()

    async def stop(self) -> None:
        """Ends all replicas."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for replica in self._replicas:
            await replica.kill()
        for proxy in self.proxies:
            await proxy.close()

    def writes(self) -> int:
        """Writes of all replicas so far."""
        return sum(len(proxy.trace.writes) for proxy in self.proxies)

    def events(self) -> int:
        """Events that all replicas have posted so far."""
        return sum(_events(proxy.trace.writes) for proxy in self.proxies)

    async def late_writes(self) -> list[str]:
        """What all replicas write from now on for longer than a resync's interval; nothing, when they are at rest."""
        before = [len(proxy.trace.writes) for proxy in self.proxies]
        await asyncio.sleep(QUIET_S)
        lengths = zip(self.proxies, before, strict=True)
        return [point for proxy, length in lengths for point in proxy.trace.writes[length:]]

    def tracebacks(self) -> list[str]:
        """Bugs that the operator met."""
        logs = [replica.log.read_text(encoding="utf-8") for replica in self._replicas]
        return [f"the operator logged a traceback: {_last_words(log)}" for log in logs if "Traceback" in log]

    async def _keep(self, replica: Forked) -> None:
        """Starts a replica again whenever it has ended."""
        while True:
            await replica.wait()
            await self._may_start.wait()
            self.restarts += 1
            await asyncio.sleep(RESTART_S)
            await replica.start()

    async def _struck(self, strike: Strike) -> None:
        """Does to the first replica what the fault at a write says."""
        match strike.fault:
            case Fault.KILL:
                await self.kill()
            case Fault.PAUSE:
                await self._pause()
            case Fault.JUMP_FORWARD | Fault.JUMP_BACK:
                self._clock.write_text(HOUR_S[strike.fault], encoding="utf-8")

    async def kill(self) -> None:
        """Kills the first replica, and ends its Lease, so that the next process need not wait for the Lease's end."""
        self._may_start.clear()
        try:
            await self._replicas[0].kill()
            ref = Ref(Kind.LEASE, self._tenant.namespace, lease.NAME)
            held = await self._arena.cluster.get(ref)
            if held is not None:
                await self._arena.cluster.delete(ref, held["metadata"]["uid"])
        finally:
            self._may_start.set()

    async def _pause(self) -> None:
        """Stops it until the other replica has led for a while."""
        paused, other = self._replicas
        paused.signal(signal.SIGSTOP)
        try:
            await eventually(other.is_leading, "the other replica leads")
            await asyncio.sleep(1)
        finally:
            paused.signal(signal.SIGCONT)

    def _faked_clock(self) -> Mapping[str, str]:
        """The environment in which the wall clock is that of a file."""
        if not LIBFAKETIME.exists():
            raise RuntimeError(f"{LIBFAKETIME} is not there; install Debian's package libfaketime")
        self._clock.write_text("+0", encoding="utf-8")
        return {
            "LD_PRELOAD": str(LIBFAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


@contextlib.asynccontextmanager
async def place(arena: Arena) -> AsyncIterator[tuple[Tenant, Record]]:
    """A namespace of its own, and the record of all that happens in it while the block runs."""
    name = f"f{os.getpid()}-{next(NUMBERS)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    with arena.recorder.recording(name) as record:
        async with arena.upstream.request("POST", "/api/v1/namespaces", data=json.dumps(body).encode()) as answer:
            answer.raise_for_status()
        yield Tenant(Mirror(arena.cluster, record), name), record


async def learn(arena: Arena, flow: str) -> tuple[Reference, Result]:
    """Plays a flow without a fault, and says how it ended."""
    return await _play(arena, Plan(flow), None)


async def play(arena: Arena, plan: Plan, reference: Reference) -> Result:
    """Plays a plan and judges it by its flow's clean run."""
    return (await _play(arena, plan, reference))[1]


async def _play(arena: Arena, plan: Plan, reference: Reference | None) -> tuple[Reference, Result]:
    """Plays a plan until it can be judged, at most TURNS times."""
    for _ in range(TURNS):
        reached, result = await _once(arena, plan, reference)
        if GAP not in result.problems:
            break
    return reached, result


async def _once(arena: Arena, plan: Plan, reference: Reference | None) -> tuple[Reference, Result]:
    PATIENCE_S.set(STEP_LIMIT_S + max((OUTAGE_S.get(fault, 0.0) for fault in plan.faults), default=0.0))
    result = Result(plan.id)
    started = time.monotonic()
    flow = flows()[plan.flow]
    async with place(arena) as (tenant, record):
        operators, stage = Operators(arena, plan, tenant), Stage(tenant)
        await flow.prepare(stage)
        async with operating(operators):
            try:
                await flow.play(stage)
                await _settle(record, operators, reference)
            except AssertionError as error:
                result.problems.append(f"stuck: {error!s:.600}")
            else:
                await _judge_rest(operators, reference, result)
            found = ending.World(record)
        found_ending, counts = found.ending(), record.counts()
        if reference is not None:
            different = ending.difference(reference.ending, found_ending)
            result.problems += [f"another end: {different}"] if different else []
            result.problems += _miscounts(reference.counts, counts)
        result.problems += [*found.orphans(), *record.problems(), *operators.tracebacks()]
    _judge_recovery(operators.proxies[0], result)
    struck = [strike for proxy in operators.proxies for strike in proxy.trace.struck]
    result.was_struck = sorted(struck) == sorted(str(strike) for strike in plan.strikes)
    result.seconds, result.restarts = round(time.monotonic() - started, 1), operators.restarts
    trace = operators.proxies[0].trace
    return Reference(found_ending, counts, tuple(trace.writes), tuple(trace.events)), result


async def _settle(record: Record, operators: Operators, reference: Reference | None) -> None:
    """Waits until the world is as the clean run left it, or the time for that is over.

    A clean run has nothing to be like: it has settled when nothing was written for a while.
    """
    end = time.monotonic() + CONVERGE_S
    compared = -1
    while time.monotonic() < end:
        before = (operators.writes(), record.length)
        if reference is None:
            await asyncio.sleep(QUIET_S)
            if (operators.writes(), record.length) == before:
                return
        elif record.length != compared:
            compared = record.length
            if not ending.difference(reference.ending, ending.World(record).ending()):
                return
        await asyncio.sleep(LOOK_S)


async def _judge_rest(operators: Operators, reference: Reference | None, result: Result) -> None:
    """Nothing is written once the end is reached, and seen: the last events may still be on their way, or held back."""
    for proxy in operators.proxies:
        await proxy.thawed()
    await asyncio.sleep(LAST_EVENTS_S)
    await _settle_events(operators, reference)
    late = await operators.late_writes()
    if late:
        result.problems.append(f"wrote after the end: {', '.join(late)[:300]}")


async def _settle_events(operators: Operators, reference: Reference | None) -> None:
    """Waits until as many events were posted as in the clean run, or the time for that is over."""
    wanted = _events(reference.writes) if reference is not None else 0
    for _ in range(round(OWED_EVENTS_S / LOOK_S)):
        if operators.events() >= wanted:
            return
        await asyncio.sleep(LOOK_S)


def _events(writes: Sequence[str]) -> int:
    return sum(point.startswith("post-events") for point in writes)


def _judge_recovery(proxy: Proxy, result: Result) -> None:
    up = proxy.trace.up_again_at
    if up is None:
        return
    later = [at for at in proxy.trace.write_times if at > up]
    result.recovery_s = round(later[0] - up, 1) if later else None
    if result.recovery_s is None or result.recovery_s > RECOVERY_LIMIT_S:
        result.problems.append(f"went on {result.recovery_s} s after the outage; the limit is {RECOVERY_LIMIT_S:.0f} s")


def _miscounts(wanted: Counter[str], found: Counter[str]) -> list[str]:
    keys = sorted({*wanted, *found})
    return [f"{key}: {found[key]} times, not {wanted[key]}" for key in keys if wanted[key] != found[key]][:5]


@contextlib.asynccontextmanager
async def operating(operators: Operators) -> AsyncIterator[None]:
    """Runs the replicas that a plan needs while the block runs."""
    try:
        await operators.start(operators.plan.strikes)
        await eventually(operators.is_watching, "the operator watches")  # so that what is created comes as an event
        if Fault.PAUSE in operators.plan.faults:
            await operators.start()
        yield
    finally:
        await operators.stop()


def _last_words(log: str) -> str:
    lines = log[log.index("Traceback") :].splitlines()
    return next((line for line in lines[1:] if line and not line.startswith(" ")), lines[0])[:300]
