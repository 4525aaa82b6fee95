"""Runs the switchboard of a pod: the worker and the HTTP server, until a signal asks it to stop.

Stopping: it is no longer ready, answers what is in flight, and then exits.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from loraline_api.leaving import DRAIN_LIMIT_S
from loraline_switchboard import base_model, s3
from loraline_switchboard.engine import Engine
from loraline_switchboard.heartbeat import Heartbeat, HeartbeatPace
from loraline_switchboard.metrics import Metrics
from loraline_switchboard.probes import Probes
from loraline_switchboard.registry import Registry
from loraline_switchboard.router import MAX_BODY_BYTES, Router
from loraline_switchboard.store import AdapterStore
from loraline_switchboard.worker import Pace, Worker

log = logging.getLogger("loraline.switchboard")

STOP_LOOK_S = 0.1
"""Time between two looks for requests in flight when it is asked to stop."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `loraline-switchboard serve` is told."""

    base_name: str
    base_path: Path
    table: Path
    adapters: Path
    engine: str
    storage: s3.S3Settings
    host: str = "0.0.0.0"
    port: int = 8080
    pod: str = ""
    pace: Pace = field(default_factory=Pace)
    heartbeat: HeartbeatPace = field(default_factory=HeartbeatPace)


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT."""
    base = await asyncio.to_thread(base_model.read, settings.base_path)
    registry = Registry(base_name=settings.base_name, base_digest=base.digest, pod=settings.pod)
    store = AdapterStore(settings.adapters, functools.partial(s3.client, settings.storage))
    async with Engine(settings.engine) as engine:
        worker = Worker(registry, engine=engine, store=store, base=base, table_path=settings.table, pace=settings.pace)
        metrics = Metrics(registry)
        probes = Probes(registry, worker, engine, metrics, base.card().encode())
        app = application(registry, Router(registry, engine, metrics), probes)
        # A caller that goes away cancels its handler, which closes the connection to vLLM, which stops the answer.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.host, settings.port).start()
            log.info("listening on %s:%d", settings.host, settings.port)
            await _until_stopped(registry, worker, Heartbeat(registry, engine, settings.heartbeat))
        finally:
            await runner.cleanup()


def application(registry: Registry, router: Router, probes: Probes) -> web.Application:
    """All paths. While the pod is leaving, every answer, refusals too, closes its connection.

    A caller that keeps its connection would stay on this pod, whose endpoint is gone, until the pod ends.
    """

    async def close_when_leaving(_: web.Request, response: web.StreamResponse) -> None:
        if registry.is_leaving:
            response.force_close()
            response.headers["Connection"] = "close"  # aiohttp has chosen this header by now

    app = web.Application(client_max_size=MAX_BODY_BYTES)
    app.add_routes([*router.routes(), *probes.routes()])
    app.on_response_prepare.append(close_when_leaving)
    return app


async def _until_stopped(registry: Registry, worker: Worker, heartbeat: Heartbeat) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    turning = [loop.create_task(worker.run()), loop.create_task(heartbeat.run())]
    stopping = loop.create_task(stop.wait())
    await asyncio.wait((*turning, stopping), return_when=asyncio.FIRST_COMPLETED)
    for task in turning:
        if task.done():
            task.result()  # a loop that ended is a bug: its error ends the process
    registry.is_stopping = True
    log.info("stopping, with %d requests in flight", registry.in_flight)
    for _ in range(int(DRAIN_LIMIT_S / STOP_LOOK_S)):
        if not registry.in_flight:
            break
        await asyncio.sleep(STOP_LOOK_S)
    for task in turning:
        task.cancel()
    await asyncio.wait(turning)
