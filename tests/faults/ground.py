"""The ground on which plans are played: a control plane with our CRDs, and the playing of many plans at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from cluster import fixture
from faults import plans, play
from faults.flows import flows
from faults.fork_server import ForkServer
from faults.kubelet import kubelet
from faults.plans import Plan
from faults.play import Arena, Reference, Result
from faults.proxy import Upstream
from faults.record import Recorder
from harness import operator_process as harness
from loraline_operator.cluster import Cluster

AT_ONCE = 16
"""Plans at once by default: they mostly wait, so two cores carry many."""

CHEAPER = {"GOGC": "400", "APISERVER_ARGS": "--enable-priority-and-fairness=false --profiling=false"}
"""The API server is what costs most: memory is given for time, and requests of one client need not be fair."""

OUTAGES_AT_ONCE = 18
"""Outages at once, beside the other plans: they do nothing but wait."""


@contextlib.asynccontextmanager
async def arena(folder: Path, mischief: str = "") -> AsyncIterator[Arena]:
    """A fresh control plane while the block runs."""
    with fixture.control_plane(folder / "cluster", CHEAPER) as kubeconfig:
        await asyncio.to_thread(harness.install_crds, kubeconfig)
        async with joined(kubeconfig, folder, mischief) as joint:
            yield joint


@contextlib.asynccontextmanager
async def joined(kubeconfig: Path, folder: Path, mischief: str = "") -> AsyncIterator[Arena]:
    """The arena of a control plane that runs and has our CRDs; `mischief` names a seeded bug."""
    os.environ["KUBECONFIG"] = str(kubeconfig)
    async with Cluster() as cluster:
        upstream, forks = Upstream(), await ForkServer.start(mischief)
        try:
            recorder = Recorder(upstream)
            async with kubelet(upstream), recorder.running():
                yield Arena(cluster, upstream, recorder, folder, forks)
        finally:
            await forks.stop()
            await upstream.session.close()


async def learn(arena: Arena, names: Iterable[str], at_once: int) -> tuple[dict[str, Reference], list[Result]]:
    """Plays the clean run of each flow."""
    slots = asyncio.Semaphore(at_once)

    async def one(name: str) -> tuple[str, Reference, Result]:
        async with slots:
            return name, *await play.learn(arena, name)

    found = await asyncio.gather(*(asyncio.create_task(one(name)) for name in names))
    return {name: reference for name, reference, _ in found}, [result for _, _, result in found]


async def run(
    arena: Arena,
    chosen: Sequence[Plan],
    references: dict[str, Reference],
    at_once: int,
    *,
    tell: Callable[[Result], None] = lambda _: None,
    limit_s: float = float("inf"),
) -> list[Result]:
    """Plays plans, several at once, in their order; each in a task, and so in a context, of its own.

    Args:
        tell: takes each result as soon as it is there.
        limit_s: seconds after which no other plan is begun.
    """
    slots = asyncio.Semaphore(at_once)
    end = time.monotonic() + limit_s

    async def one(plan: Plan) -> Result | None:
        async with slots:
            if time.monotonic() > end:
                return None
            try:
                result = await play.play(arena, plan, references[plan.flow])
            except Exception as error:  # one plan that cannot be played does not end the others
                result = Result(plan.id, [f"not played: {error!r:.500}"])
        tell(result)
        return result

    results = await asyncio.gather(*(asyncio.create_task(one(plan)) for plan in chosen))
    return [result for result in results if result is not None]


def singles(references: dict[str, Reference]) -> list[Plan]:
    """Every single fault at every point of the clean runs."""
    return [
        plan
        for name, reference in references.items()
        for plan in plans.singles(name, reference.writes, reference.events)
    ]


def names() -> list[str]:
    """All flows."""
    return list(flows())
