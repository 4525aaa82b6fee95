"""What the operators are measured on: the real control plane with kwok's nodes, or the stand-in for the API server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import yaml

from bench.operator import load
from bench.operator.phases import Plant
from bench.operator.processes import cluster_pids
from cluster import fixture
from faults.proxy import Upstream
from harness import operator_process as harness

PODS_PER_NODE = 100
START_S = 20.0
POD_ADDRESSES = "127.100.0.0/14"
"""Addresses of pods: on loopback, where their progress is answered."""


@contextlib.asynccontextmanager
async def real(folder: Path) -> AsyncIterator[Plant]:
    """A control plane with our CRDs and kwok's nodes, on which pods run for ever."""
    cluster = folder / "cluster"
    with fixture.control_plane(cluster) as kubeconfig:
        harness.install_crds(kubeconfig)
        harness.kubectl(kubeconfig, "create", "namespace", harness.OPERATOR_NAMESPACE)
        os.environ["KUBECONFIG"] = str(kubeconfig)
        _kwok(cluster, 1)

        async def run_pods(count: int) -> None:
            await asyncio.to_thread(_kwok, cluster, count // PODS_PER_NODE + 1)

        async with _upstream() as upstream:
            yield Plant(upstream, cluster_pids(cluster), run_pods)


@contextlib.asynccontextmanager
async def stand_in(folder: Path) -> AsyncIterator[Plant]:
    """The stand-in; the pods of its Jobs are created by us, and run."""
    port = fixture.free_port()
    certificate, key = fixture.certificate(folder)
    config = fixture.kubeconfig(
        folder / "kubeconfig", f"https://127.0.0.1:{port}", authority=certificate, user={"token": "nobody"}
    )
    os.environ["KUBECONFIG"] = str(config)
    program = (sys.executable, "-m", "bench.operator.standin", str(port), str(certificate), str(key))
    process = await asyncio.create_subprocess_exec(*program)
    try:
        async with _upstream() as upstream:
            await _answers(upstream)

            async def run_pods(_: int) -> None:
                await load.run_pods(upstream)

            yield Plant(upstream, {"stand-in": process.pid}, run_pods)
    finally:
        process.kill()
        await process.wait()


PLANTS: dict[str, Callable[[Path], contextlib.AbstractAsyncContextManager[Plant]]] = {
    "real": real,
    "stand-in": stand_in,
}


@contextlib.asynccontextmanager
async def _upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    try:
        yield upstream
    finally:
        await upstream.session.close()


async def _answers(upstream: Upstream) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            await upstream.revision()
        except OSError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            return


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
