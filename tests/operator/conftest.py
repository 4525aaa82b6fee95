"""One control plane for all tests here; an operator process and a namespace for each."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cluster import fixture
from harness import operator_process as harness
from harness.operator_process import LEASE, OperatorProcess, Replicas, Tenant
from loraline_operator.cluster import Cluster

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster with our CRDs."""
    with fixture.control_plane(tmp_path_factory.mktemp("cluster")) as path:
        harness.install_crds(path)
        harness.kubectl(path, "create", "namespace", harness.OPERATOR_NAMESPACE)
        yield path


@pytest.fixture
async def cluster(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """A connection of the test's own, as the administrator."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    async with Cluster() as connection:
        yield connection


@pytest.fixture
def namespace(kubeconfig: Path) -> str:
    """A namespace of the test's own."""
    name = f"tenant-{next(NUMBERS)}"
    harness.kubectl(kubeconfig, "create", "namespace", name)
    return name


@pytest.fixture
def tenant(cluster: Cluster, namespace: str) -> Tenant:
    """The hands of user and kubelet in that namespace."""
    return Tenant(cluster, namespace)


@pytest.fixture
async def replicas(kubeconfig: Path, cluster: Cluster, tmp_path: Path) -> AsyncIterator[Replicas]:
    """Starts replicas; what still runs at the end is stopped, and none may have met a bug."""
    made = Replicas(kubeconfig, tmp_path)
    try:
        yield made
        await made.stop()
        assert "Traceback" not in made.logs(), made.logs()
    finally:
        await made.kill()
        held = await cluster.get(LEASE)
        if held is not None:
            await cluster.delete(LEASE, held["metadata"]["uid"])


@pytest.fixture
async def operator(replicas: Replicas) -> OperatorProcess:
    """A replica that leads."""
    return await replicas.lead()
