"""Runs the operator: waits for the Lease, then watches and reconciles in one set of tasks of which none may end alone.

The command line is in `__main__`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import kopf
from aiohttp import web

from loraline_operator import handlers, paths
from loraline_operator.actions import Kind
from loraline_operator.children import Children
from loraline_operator.cluster import Cluster
from loraline_operator.complaints import SELECTIONS, Complaints
from loraline_operator.lease import Lease
from loraline_operator.objects import Objects
from loraline_operator.policy_store import PolicyStore
from loraline_operator.poll import Poller
from loraline_operator.probes import Probes
from loraline_operator.queue import WorkQueue
from loraline_operator.reconcile import LIST_RETRY_S, FineTunes, Reconciler
from loraline_operator.reflector import Reflector, Selection, Sink
from loraline_operator.settings import Settings

logger = logging.getLogger(__name__)


CLOSING_S = 0.25
"""Time in which TLS connections end after their session was closed (aiohttp: Graceful Shutdown)."""


WATCH = "infinite_watch"
"""kopf's generator of a watch's events."""


class _Stopped(Exception):
    """Somebody asked the operator to stop."""


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT.

    Raises:
        errors.NotLeader: the Lease was lost; the next start stands by.
    """
    stop = asyncio.Event()
    _heed_signals(stop)
    asyncio.get_running_loop().set_exception_handler(_tell)
    async with Cluster() as cluster, Poller() as poller:
        identity = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        lease = Lease(cluster, namespace=settings.namespace, identity=identity, duration_s=settings.lease_duration_s)
        cluster.fence = lease.check
        policies = PolicyStore(cluster, settings)
        reconciler = _assembled(cluster, poller, policies, settings)
        probes = Probes(reconciler.health, lease, policies, settings.resync_interval_s)
        async with _served(probes, settings.listen):
            try:
                await _together(_stopper(stop), _lead(lease, reconciler, policies, settings, stop))
            except* _Stopped:
                logger.info("stopped")
            finally:
                await lease.release()
    await asyncio.sleep(CLOSING_S)


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs what went wrong where nobody waits for it.

    kopf leaves the generator of a watch open when it is cancelled, and that then fails to close: no news at the end.
    """
    if getattr(context.get("asyncgen"), "__name__", None) != WATCH:
        loop.default_exception_handler(context)


def _heed_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _lead(
    lease: Lease, reconciler: Reconciler, policies: PolicyStore, settings: Settings, stop: asyncio.Event
) -> None:
    """Stands by until the Lease is ours, then does everything that only the leader does."""
    await lease.acquire()
    await _together(lease.renew(), _reconcile(reconciler, policies, settings, stop))


def _assembled(cluster: Cluster, poller: Poller, policies: PolicyStore, settings: Settings) -> Reconciler:
    """The loop with all that it looks at and goes through."""
    objects = Objects()
    reconciler = Reconciler(cluster, objects, WorkQueue(), settings)
    children = Children(reconciler.changed)
    complaints = Complaints(children.owner_of, reconciler.changed)
    world = paths.World(
        cluster=cluster,
        poller=poller,
        policies=policies,
        objects=objects,
        children=children,
        complaints=complaints,
        own=reconciler.own,
        told=reconciler.told,
        refers=reconciler.references.set,
    )
    finetunes, observer = paths.finetunes(world, settings)
    reconciler.paths = {Kind.FINE_TUNE: finetunes, Kind.ADAPTER_DEPLOYMENT: paths.deployments(world, settings)}
    reconciler.forget_data = observer.data.forget
    reconciler.reread = policies.load
    sinks: list[tuple[Selection, Sink]] = [(copies.selection, copies) for copies in children.copies]
    sinks += [(selection, complaints) for selection in SELECTIONS]
    sinks += [(FineTunes.selection, FineTunes(reconciler))]  # after their children
    reconciler.reflectors = [Reflector(cluster, selection, sink, settings.namespaces) for selection, sink in sinks]
    return reconciler


async def _reconcile(reconciler: Reconciler, policies: PolicyStore, settings: Settings, stop: asyncio.Event) -> None:
    """Waits for a policy to judge by, and until all can be listed: nothing is watched or done before all is known."""
    await policies.first()
    while True:
        versions = await reconciler.list_all()
        if versions is not None:
            break
        await asyncio.sleep(LIST_RETRY_S)
    workers = (reconciler.work() for _ in range(settings.workers))
    watches = (policies.watch(reconciler.list_all), reconciler.follow(versions), _watch(reconciler, settings, stop))
    await _together(reconciler.resync(), *watches, *workers)


async def _watch(reconciler: Reconciler, settings: Settings, stop: asyncio.Event) -> None:
    """Runs kopf's tasks. Its own way to end them takes all others for its own, and waits five seconds for them."""
    tasks = await kopf.spawn_tasks(
        registry=handlers.registry(reconciler),
        settings=handlers.settings(),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    _heed_signals(stop)  # kopf has taken them over
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _stopper(stop: asyncio.Event) -> None:
    await stop.wait()
    raise _Stopped


async def _together(*jobs: Awaitable[None]) -> None:
    """Runs jobs that never end: when one does, well or not, all end."""
    async with asyncio.TaskGroup() as group:
        for job in jobs:
            group.create_task(_endless(job))


async def _endless(job: Awaitable[None]) -> None:
    await job
    raise RuntimeError(f"{job} ended, and it never should")


@contextlib.asynccontextmanager
async def _served(probes: Probes, listen: str) -> AsyncIterator[None]:
    """Serves the probes at host:port while the block runs."""
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(probes.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield
    finally:
        await runner.cleanup()
