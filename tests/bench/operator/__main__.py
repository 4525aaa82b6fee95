"""`python -m bench.operator [--sizes 100,1000,5000] [--quick]`: measures, and writes build/bench-operator.json."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bench.operator import phases
from bench.operator.phases import Operator, Plant
from bench.operator.processes import cluster_pids
from cluster import fixture
from faults.proxy import Upstream
from harness import operator_process as harness
from loraline_operator.actions import Kind
from loraline_operator.cluster import Cluster

REPORT = Path("build/bench-operator.json")
PODS_PER_NODE = 100
RUNNING_LIMIT_S = 1800.0
STEADY_S = 60.0
LATENCY_OBJECTS, LATENCY_PER_S = 1000, 50.0
POD_ADDRESSES = "127.100.0.0/14"
"""Addresses of kwok's pods: on loopback, where their progress is answered."""

OURS = ("-m", "loraline_operator", "run", "--log-level", "warning")
IMAGES = ("--trainer-image", "trainer:1", "--switchboard-image", "operator:1", "--server-image", "vllm:1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures at each size, side by side, and tells."""
    parser = argparse.ArgumentParser(prog="bench.operator", description=__doc__)
    parser.add_argument("--sizes", default="100,1000,5000", help="numbers of fine-tunes, with commas")
    parser.add_argument("--steady-s", type=float, default=STEADY_S, help="seconds of the steady state")
    parser.add_argument("--only", choices=("ours", "baseline"), help="one of the two")
    parser.add_argument("--report", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    results: list[dict[str, Any]] = []
    for size in (int(text) for text in options.sizes.split(",")):
        for who in (options.only,) if options.only else ("baseline", "ours"):
            with tempfile.TemporaryDirectory(prefix="loraline-bench-") as folder:
                found = asyncio.run(_measure(who, size, Path(folder), options.steady_s))
            results.append({"operator": who, "size": size, **found})
            sys.stderr.write(json.dumps(results[-1]) + "\n")
            options.report.parent.mkdir(parents=True, exist_ok=True)
            options.report.write_text(json.dumps({"machine": _machine(), "runs": results}, indent=1) + "\n")
    return 0


async def _measure(who: str, size: int, folder: Path, steady_s: float) -> dict[str, Any]:
    """All phases of one operator at one size, on a control plane of its own."""
    found: dict[str, Any] = {}
    async with _plant(folder) as plant:
        operator, requests = _operator(who, folder)
        found["burst"] = await phases.burst(plant, operator, "burst", size)
        if who == "ours":
            await _let_run(plant, operator, size)
        changed = functools.partial(_changed, await _versions())
        found["restart"] = await phases.restart(plant, operator, size, changed)
        if who == "ours":
            found["steady"] = await phases.steady(plant, operator, size, steady_s, requests)
        if size == LATENCY_OBJECTS:
            found["latency"] = await phases.latency(plant, operator, "rate", LATENCY_OBJECTS, LATENCY_PER_S)
    return found


@contextlib.asynccontextmanager
async def _plant(folder: Path) -> AsyncIterator[Plant]:
    """A control plane with our CRDs and kwok's nodes, on which pods run for ever."""
    cluster = folder / "cluster"
    with fixture.control_plane(cluster) as kubeconfig:
        harness.install_crds(kubeconfig)
        harness.kubectl(kubeconfig, "create", "namespace", harness.OPERATOR_NAMESPACE)
        os.environ["KUBECONFIG"] = str(kubeconfig)
        _kwok(cluster, 1)
        upstream = Upstream()
        try:
            yield Plant(upstream, cluster_pids(cluster))
        finally:
            await upstream.session.close()


def _kwok(cluster: Path, nodes: int) -> None:
    """Adds nodes; their pods run and do not end."""
    stages = cluster / "stages.yaml"
    if not stages.exists():
        programs = Path(subprocess.check_output([str(fixture.SETUP), "k8s-kwok"], text=True).splitlines()[-1])
        every = list(yaml.safe_load_all((programs.parent / "kwok-stages.yaml").read_text(encoding="utf-8")))
        kept = [stage for stage in every if stage and stage["metadata"]["name"] != "pod-complete"]
        stages.write_text(yaml.safe_dump_all(kept), encoding="utf-8")
    environment = {**os.environ, "STAGES": str(stages), "KWOK_ARGS": f"--cidr={POD_ADDRESSES}"}
    subprocess.run([str(fixture.HERE / "kwok.sh"), str(cluster), str(nodes)], env=environment, check=True)


async def _let_run(plant: Plant, operator: Operator, size: int) -> None:
    """Waits, with the operator at work, until every fine-tune is told to run."""
    await asyncio.to_thread(_kwok, Path(os.environ["KUBECONFIG"]).parent, size // PODS_PER_NODE + 1)
    async with operator.running(), Cluster() as cluster, asyncio.timeout(RUNNING_LIMIT_S):
        while True:
            items = [item async for item in cluster.list(Kind.FINE_TUNE)]
            running = [item for item in items if (item.get("status") or {}).get("phase") == "Running"]
            if len(running) >= size:
                return
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
        text = await answer.text()
    counted = [line for line in text.splitlines() if line.startswith("loraline_api_requests_total{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in counted))


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
    return {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


if __name__ == "__main__":
    sys.exit(main())
