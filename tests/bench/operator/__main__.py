"""`python -m bench.operator [--sizes 100,1000,5000] [--alone 100,1000,5000,20000]`: measures the operator.

It writes build/bench-operator.json: one run for each operator, API server and size, and what follows from them. What is
not measured again stays there, so that a long measurement can be made in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bench.operator import phases, summary
from bench.operator.phases import Operator, Plant
from bench.operator.plants import PLANTS
from cluster import fixture
from harness import operator_process as harness
from loraline_operator.actions import Kind
from loraline_operator.cluster import Cluster

REPORT = Path("build/bench-operator.json")
RUNNING_S = 600.0
STEADY_S = 60.0
LATENCY_OBJECTS, LATENCY_PER_S = 1000, 50.0

OURS = ("-m", "loraline_operator", "run", "--log-level", "warning")
IMAGES = ("--trainer-image", "trainer:1", "--switchboard-image", "operator:1", "--server-image", "vllm:1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures at each size, side by side, and tells."""
    parser = argparse.ArgumentParser(prog="bench.operator", description=__doc__)
    parser.add_argument(
        "--sizes", type=_sizes, default="100,1000,5000", help="numbers of fine-tunes on the real API server"
    )
    parser.add_argument("--alone", type=_sizes, default="100,1000,5000,20000", help="the same on the stand-in for it")
    parser.add_argument("--steady-s", type=float, default=STEADY_S, help="seconds of the steady state")
    parser.add_argument("--running-s", type=float, default=RUNNING_S, help="seconds in which all have to run")
    parser.add_argument("--only", choices=("ours", "baseline"), help="one of the two")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    wanted = [("stand-in", size) for size in options.alone] + [("real", size) for size in options.sizes]
    operators = (options.only,) if options.only else ("baseline", "ours")
    runs = [run for run in _before(options.report) if (run["apiServer"], run["size"]) not in wanted]
    for server, size in wanted:
        for who in operators:
            with tempfile.TemporaryDirectory(prefix="loraline-bench-") as folder:
                found = asyncio.run(_measure(who, server, size, Path(folder), options))
            runs.append({"operator": who, "apiServer": server, "size": size, "load": os.getloadavg()[0], **found})
            sys.stderr.write(json.dumps(runs[-1]) + "\n")
            report = {"machine": _machine(), "summary": summary.of(runs), "runs": runs}
            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(json.dumps(summary.of(runs), indent=1) + "\n")
    return 0


def _before(report: Path) -> list[dict[str, Any]]:
    """The runs of an earlier measurement."""
    if not report.exists():
        return []
    runs: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["runs"]
    return runs


def _sizes(text: str) -> list[int]:
    """Numbers of fine-tunes, as they are typed in; none where the text is empty."""
    sizes = text.split(",") if text else []
    if not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers of fine-tunes; write them as in 100,1000")
    return [int(size) for size in sizes]


async def _measure(who: str, server: str, size: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All phases of one operator at one size, on API servers of its own.

    The latency is measured twice on the real one: with nothing beside operator and API server, and beside Kubernetes'
    controllers, which then make and run the pods on the same cores.
    """
    found: dict[str, Any] = {}
    operator, requests = _operator(who, folder)
    async with PLANTS[server](_made(folder / "alone")) as plant:
        found["burst"] = await phases.burst(plant, operator, "burst", size)
        with plant.without_controllers():
            changed = functools.partial(_changed, await _versions())
            found["restart"] = await phases.restart(plant, operator, size, changed)
        if who == "ours" and await _let_run(plant, operator, size, options.running_s):
            found["steady"] = await phases.steady(plant, operator, size, options.steady_s, requests)
            changed = functools.partial(_changed, await _versions())
            found["restartRunning"] = await phases.restart(plant, operator, size, changed)
    if size == LATENCY_OBJECTS:
        rate = functools.partial(phases.latency, prefix="rate", count=LATENCY_OBJECTS, per_s=LATENCY_PER_S)
        async with PLANTS[server](_made(folder / "rate")) as plant:
            with plant.without_controllers():
                found["latency"] = await rate(plant, operator)
        if server == "real":
            async with PLANTS[server](_made(folder / "beside")) as plant:
                found["latencyBeside"] = await rate(plant, operator)
    return found


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _let_run(plant: Plant, operator: Operator, size: int, limit_s: float) -> bool:
    """Waits, with the operator at work, until every fine-tune is told to run; False when that takes too long."""
    await plant.run_pods(size)
    end = time.monotonic() + limit_s
    async with operator.running(), Cluster() as cluster:
        while True:
            items = [item async for item in cluster.list(Kind.FINE_TUNE)]
            running = [item for item in items if (item.get("status") or {}).get("phase") == "Running"]
            if len(running) >= size:
                return True
            if time.monotonic() > end:
                sys.stderr.write(f"{len(running)} of {size} run after {limit_s:.0f} s\n")
                return False
            await asyncio.sleep(5)


def _operator(who: str, folder: Path) -> tuple[Operator, Any]:
    """The process, and what counts its requests to the API server."""
    log = (folder / f"{who}.log").open("ab")
    paths = os.pathsep.join(str(harness.REPOSITORY / part) for part in ("crds", "operator", "tests"))
    port = fixture.free_port()
    if who == "baseline":
        command: tuple[str, ...] = (sys.executable, "-m", "bench.operator.baseline", str(port))
        return Operator(command, {"PYTHONPATH": paths}, log, f"http://127.0.0.1:{port}/healthz"), None
    listen = ("--namespace", harness.OPERATOR_NAMESPACE, "--listen", f"127.0.0.1:{port}")
    command = (sys.executable, *OURS, *IMAGES, *listen, "--lease-duration-s", "60")
    operator = Operator(command, {"PYTHONPATH": paths}, log, f"http://127.0.0.1:{port}/readyz")
    return operator, functools.partial(_requests, port)


async def _requests(port: int) -> int:
    """Requests that the operator counts in its metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        return harness.api_requests(await answer.text()).total()


async def _versions() -> dict[str, str]:
    """The resource version of everything that an operator of this kind writes."""
    async with Cluster() as cluster:
        kinds = (Kind.FINE_TUNE, Kind.JOB, Kind.CONFIG_MAP, Kind.EVENT)
        return {
            f"{kind} {item['metadata']['uid']}": item["metadata"]["resourceVersion"]
            for kind in kinds
            async for item in cluster.list(kind, metadata_only=True)
        }


async def _changed(before: dict[str, str]) -> int:
    """How many of these objects were written since, new ones included."""
    after = await _versions()
    return sum(before.get(key) != version for key, version in after.items())


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version()}


if __name__ == "__main__":
    sys.exit(main())
