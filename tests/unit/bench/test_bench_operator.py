"""The operator's bench without an operator: the stand-in answers as the API server does, and what runs come to."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bench.operator import summary
from bench.operator.standin import Connection, Store
from loraline_operator import errors
from loraline_operator.actions import Kind, Ref
from loraline_operator.cluster import Cluster

A = Ref(Kind.FINE_TUNE, "ns", "a")


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The operator's own connection, to a stand-in."""
    store = Store()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(store), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = {
        "clusters": [{"name": "a", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "a", "user": {"token": "nobody"}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    async with Cluster() as connection:
        yield connection
    server.close()


async def create(cluster: Cluster, *names: str) -> list[dict[str, Any]]:
    bodies = [{"spec": {"a": 1}, "metadata": {"name": name, "labels": {"team": "x"}}} for name in names]
    return [await cluster.create(A, body) for body in bodies]


async def test_writes_have_versions_and_a_late_one_is_a_conflict(cluster: Cluster) -> None:
    (made,) = await create(cluster, "a")
    version = made["metadata"]["resourceVersion"]
    with pytest.raises(errors.AlreadyExists):
        await create(cluster, "a")
    patched = await cluster.patch(A, {"metadata": {"finalizers": ["f"]}}, resource_version=version)
    with pytest.raises(errors.Conflict):
        await cluster.replace(A, {"metadata": made["metadata"], "status": {"phase": "Running"}}, subresource="status")
    told = {"metadata": patched["metadata"], "status": {"phase": "Running"}}
    await cluster.replace(A, told, subresource="status")
    stored = await cluster.get(A)
    assert stored is not None
    metadata = stored["metadata"]
    assert (stored["spec"], stored["status"], metadata["finalizers"]) == ({"a": 1}, {"phase": "Running"}, ["f"])
    assert (metadata["generation"], int(metadata["resourceVersion"]) > int(version)) == (1, True)


async def test_a_watch_tells_what_came_after_its_list_to_those_who_selected_it(cluster: Cluster) -> None:
    await create(cluster, "a")
    pages = [page async for page in cluster.pages(A.kind, labels="team=x")]
    assert [item["metadata"]["name"] for item in pages[0].items] == ["a"]
    await create(cluster, "b")
    await cluster.delete(A, pages[0].items[0]["metadata"]["uid"])
    seen = []
    async with asyncio.timeout(60):
        async for kind, manifest in cluster.watch(A.kind, labels="team", since=pages[0].version):
            seen.append((kind, manifest["metadata"]["name"]))
            if len(seen) == 2:
                break
    assert seen == [("ADDED", "b"), ("DELETED", "a")]
    assert [item async for item in cluster.list(A.kind, labels="team=y")] == []


def a_run(operator: str, size: int, memory_mb: float, cpu_s: float) -> dict[str, Any]:
    used = {"operator": cpu_s, "kube-apiserver": 6.0, "etcd": 2.0, "kwok": 50.0}
    rates = {"perSecond": size / 10, "perCoreSecond": size / cpu_s, "operatorCpuMsPerObject": cpu_s / size * 1000}
    rates["toldPerSecond"] = size / 8
    burst = {"measured": size, "seconds": 10.0, "cpuSeconds": used, **rates}
    restart = {"seconds": 1.0, "writes": 0, "memoryMb": memory_mb}
    return {"operator": operator, "apiServer": "real", "size": size, "burst": burst, "restart": restart}


def test_the_summary_compares_and_tells_the_memory_of_an_object() -> None:
    runs = [a_run("ours", 100, 60.0, 1.0), a_run("ours", 1000, 69.0, 2.0), a_run("baseline", 1000, 99.0, 5.0)]
    found = summary.of(runs)["real"]
    assert found["1000"]["timesBaseline"] == {"perSecond": 1.0, "perCoreSecond": 2.5}
    assert found["1000"]["ours"]["apiServerCpuMsPerObject"] == 8.0
    assert (found["1000"]["ours"]["coresOfOperator"], found["1000"]["ours"]["coresOfApiServer"]) == (0.2, 0.8)
    assert found["oursMemoryKbPerObject"] == 10.0
