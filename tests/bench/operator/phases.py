"""The phases of the benchmark, each on an operator process and a control plane that are given."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench.operator import load
from bench.operator.load import Watch
from bench.operator.processes import Meter, cpu_s, memory_mb
from faults.proxy import Upstream
from harness.operator_process import eventually

BURST_LIMIT_S = 1800.0
JOBS = f"/apis/batch/v1/namespaces/{load.NAMESPACE}/jobs"
LOG_CHARS = 2000
IDLE_S = 4.0
BUSY_S = 0.04
"""CPU time in a quarter of a second from which a process counts as busy."""

BYTECODE = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": "/tmp/loraline-bench-bytecode"}
"""Images bring compiled code; a checkout compiles at the first start, which is then not part of the second."""

CONTROLLERS = ("kube-controller-manager", "kube-scheduler", "kwok")


@dataclass(frozen=True, slots=True)
class Plant:
    """The control plane under load."""

    upstream: Upstream
    pids: Mapping[str, int]
    run_pods: Callable[[int], Awaitable[None]]
    """Lets the pods of so many fine-tunes run, soon or at once."""

    @contextlib.contextmanager
    def without_controllers(self) -> Iterator[None]:
        """Stops what competes with operator and API server for the cores: Job controller, scheduler and kwok."""
        pids = [self.pids[name] for name in CONTROLLERS if name in self.pids]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


class Operator:
    """The process that is measured."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Any, probe: str) -> None:
        self._command, self._environment, self._log, self._probe = command, environment, log, probe
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its pid."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env={**os.environ, **BYTECODE, **self._environment}, stdout=self._log, stderr=self._log
        )

    async def is_up(self) -> bool:
        """Whether its probe answers well: before that it is starting, and not idle."""
        with contextlib.suppress(aiohttp.ClientError):
            async with aiohttp.ClientSession() as session, session.get(self._probe) as answer:
                return answer.status == 200 and b'"leader": false' not in await answer.read()
        return False

    async def stop(self) -> None:
        """Ends it."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), 20)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It runs while the block does.

        Raises:
            ExceptionGroup: it ended before the block did; the message has the end of its log.
        """
        await self.start()
        try:
            async with asyncio.TaskGroup() as group:
                guard = group.create_task(self._ended())
                yield
                guard.cancel()
        finally:
            await self.stop()

    async def _ended(self) -> None:
        """Waits for what may not happen."""
        assert self._process is not None
        code = await self._process.wait()
        log = (await asyncio.to_thread(Path(self._log.name).read_text, encoding="utf-8"))[-LOG_CHARS:]
        raise RuntimeError(f"the operator ended with exit code {code}: {log}")


async def burst(plant: Plant, operator: Operator, prefix: str, count: int) -> dict[str, Any]:
    """New objects that wait when the operator starts: from its first Job to the last status, and until it is at rest.

    What it does about its own writes belongs to them: in a stream of new objects it would have to be done meanwhile.
    """
    with plant.without_controllers():
        await load.create_all(plant.upstream, prefix, count)
        jobs = Watch(plant.upstream, JOBS, "job", prefix)
        told = Watch(plant.upstream, load.PATH, "told", prefix)
        await asyncio.gather(jobs.start(), told.start())
        async with operator.running():
            await jobs.until(1, BURST_LIMIT_S)
            meter = Meter({"operator": operator.pid, **plant.pids})
            first = time.monotonic()
            done = len(told.times)
            await asyncio.gather(jobs.until(count, BURST_LIMIT_S), told.until(count, BURST_LIMIT_S))
            seconds = max(told.times.values()) - first
            to_rest = await _until_idle(operator, first)
            used = meter.read()
            memory = memory_mb(operator.pid)
        await asyncio.gather(jobs.stop(), told.stop())
    rest = count - done
    return {
        "objects": count,
        "measured": rest,
        "seconds": round(to_rest, 2),
        "perSecond": round(rest / to_rest, 1),
        "toldPerSecond": round(rest / seconds, 1),
        "operatorCpuMsPerObject": round(used["operator"] / rest * 1000, 2),
        "perCoreSecond": round(rest / used["operator"], 1),
        "memoryMb": round(memory, 1),
        "cpuSeconds": used,
    }


async def restart(plant: Plant, operator: Operator, count: int, counters: Any) -> dict[str, Any]:
    """A start over objects that are as they should be: until it is at rest, and what it wrote."""
    revision = await plant.upstream.revision()
    started = time.monotonic()
    async with operator.running():
        seconds = await _until_idle(operator, started)
        found = {
            "objects": count,
            "seconds": round(seconds, 2),
            "cpuSeconds": round(cpu_s(operator.pid), 2),
            "memoryMb": round(memory_mb(operator.pid), 1),
            "writes": await counters() if counters is not None else None,
        }
    return found | {"revisions": await plant.upstream.revision() - revision}


async def _until_idle(operator: Operator, started: float) -> float:
    """Seconds from then to the last moment at which it was busy, once it has been up and idle for a while."""
    await eventually(operator.is_up, "the operator is up", BURST_LIMIT_S)
    busy_at, before = time.monotonic(), cpu_s(operator.pid)
    while time.monotonic() - busy_at < IDLE_S:
        await asyncio.sleep(0.25)
        now = cpu_s(operator.pid)
        if now - before > BUSY_S:
            busy_at = time.monotonic()
        before = now
    return busy_at - started


async def latency(plant: Plant, operator: Operator, prefix: str, count: int, per_s: float) -> dict[str, Any]:
    """From the API server's word that a fine-tune is there to its Job, at a steady rate."""
    jobs = Watch(plant.upstream, JOBS, "job", prefix)
    await jobs.start()
    async with operator.running():
        await asyncio.sleep(5)
        meter = Meter({"operator": operator.pid, **plant.pids})
        taken = await load.create_steadily(plant.upstream, prefix, count, per_s)
        await jobs.until(count, 120)
        used = meter.read()
    await jobs.stop()
    waits = sorted(jobs.times[name] - at for name, at in taken.items())
    return {
        "objects": count,
        "perSecond": per_s,
        "p50Seconds": round(waits[len(waits) // 2], 3),
        "p99Seconds": round(waits[int(len(waits) * 0.99)], 3),
        "cpuSeconds": used,
    }


async def steady(plant: Plant, operator: Operator, count: int, seconds: float, counters: Any) -> dict[str, Any]:
    """Running fine-tunes whose progress is polled: CPU, requests and memory."""
    async with load.progress() as looks, operator.running():
        await _until_idle(operator, time.monotonic())
        meter, requests, before = Meter({"operator": operator.pid, **plant.pids}), await counters(), looks[0]
        await asyncio.sleep(seconds)
        used, total = meter.read(), await counters()
        return {
            "objects": count,
            "seconds": seconds,
            "operatorCpuShare": round(used["operator"] / seconds, 4),
            "requestsPerSecond": round((total - requests) / seconds, 2),
            "looksPerSecond": round((looks[0] - before) / seconds, 2),
            "memoryMb": round(memory_mb(operator.pid), 1),
            "cpuSeconds": used,
        }
