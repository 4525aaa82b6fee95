"""The operator as a process: crashes after every write, two replicas, rest, memory, and probes that tell the truth."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster import fixture
from harness import operator_process as harness
from harness.door import Door
from harness.operator_process import LEASE, OperatorProcess, Replicas, Tenant, eventually

REST_S = 6.0
"""Longer than two lease renewals and than any interval that the tests set."""

MAX_REST_BYTES = 100 * 1000 * 1000


@pytest.fixture
async def door(kubeconfig: Path, tenant: Tenant) -> AsyncIterator[Door]:
    """A door to the API server; `tenant` makes the connection's kubeconfig known."""
    opened = Door()
    await opened.open()
    yield opened
    await opened.close()


async def test_a_kill_after_every_single_write_leads_to_the_same_end(
    tenant: Tenant, door: Door, replicas: Replicas, tmp_path: Path
) -> None:
    died = asyncio.Event()

    def die(_: int) -> bool:
        died.set()
        return True

    door.after_write = die
    config = harness.through(door, tmp_path)

    async def live_and_die() -> None:
        """Starts a replica that is killed as soon as it has written once; the next takes the Lease over."""
        died.clear()
        replica = await replicas.start(kubeconfig=config)
        await asyncio.wait_for(died.wait(), harness.LIMIT_S)
        await replica.kill()
        held = await tenant.cluster.get(LEASE)
        if held is not None:  # else it died of its predecessor's last write, told late, before it led
            await tenant.cluster.delete(LEASE, held["metadata"]["uid"])

    await tenant.create_finetune()
    while (await tenant.status()).run is None:
        await live_and_die()
    await tenant.end_pod(0)
    while (await tenant.status()).phase != "Succeeded":
        await live_and_die()
    writes = [write.replace(tenant.namespace, "NS") for write in door.writes]
    status = await tenant.status()
    assert status.run is not None
    assert status.adapter is not None
    assert await tenant.jobs() == [f"tickets-{status.run.id}-1"]
    path = "/apis/loraline.dev/v1alpha1/namespaces/NS/lorafinetunes/tickets"
    assert [write for write in writes if write != f"PUT {path}/status"] == [
        "POST /api/v1/namespaces/NS/configmaps",
        "POST /apis/batch/v1/namespaces/NS/jobs",
    ]


async def test_at_rest_nothing_is_written_and_a_restart_writes_nothing(
    tenant: Tenant, door: Door, replicas: Replicas, tmp_path: Path
) -> None:
    config = harness.through(door, tmp_path)
    first = await replicas.start("--resync-interval-s", "2", kubeconfig=config)
    await tenant.create_finetune()
    await tenant.end_pod(0)
    await tenant.until("Succeeded")

    async def is_told() -> bool:
        return door.writes[-1] == f"POST /api/v1/namespaces/{tenant.namespace}/events"

    await eventually(is_told, "the event of the success, the last write")
    before = len(door.writes)
    await asyncio.sleep(REST_S)
    assert (door.writes[before:], first.memory_bytes() < MAX_REST_BYTES) == ([], True)
    await first.stop()
    await replicas.lead(kubeconfig=config)
    await asyncio.sleep(2)
    assert door.writes[before:] == []


async def test_one_of_two_replicas_leads_and_the_other_takes_over_after_a_kill(
    tenant: Tenant, replicas: Replicas
) -> None:
    short = ("--lease-duration-s", "6")
    first = await replicas.lead(*short)
    second = await replicas.start(*short)

    async def stands_by() -> bool:
        code, text = await second.get("/readyz")
        return code == 200 and json.loads(text)["message"] == "stands by: another replica holds the Lease"

    await eventually(stands_by, "the second replica stands by")
    await tenant.create_finetune()
    job = (await tenant.pod())["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    assert "loraline_leader 0.0" in (await second.get("/metrics"))[1]
    await first.kill()
    await eventually(second.is_leading, "the second replica leads")
    await tenant.end_pod(0)
    await tenant.until("Succeeded")
    assert await tenant.jobs() == [job]


async def test_the_operator_is_not_ready_without_its_crds_and_says_so(tmp_path: Path) -> None:
    with fixture.control_plane(tmp_path / "bare") as kubeconfig:
        await asyncio.to_thread(harness.kubectl, kubeconfig, "create", "namespace", harness.OPERATOR_NAMESPACE)
        replicas = Replicas(kubeconfig, tmp_path)
        operator = await replicas.start()

        async def is_unready() -> bool:
            code, text = await operator.get("/readyz")
            return code == 503 and "the CRDs of Loraline are not installed" in text

        try:
            await eventually(is_unready, "not ready without CRDs")
            assert (await operator.get("/healthz"))[0] == 200
            await asyncio.to_thread(harness.install_crds, kubeconfig)
            await eventually(operator.is_leading, "ready once the CRDs are there")
            await replicas.stop()
        finally:
            await replicas.kill()


async def requests(operator: OperatorProcess) -> Counter[str]:
    """Requests so far, by method."""
    return harness.api_requests((await operator.get("/metrics"))[1])


async def test_a_new_fine_tune_costs_two_creations_and_what_its_status_tells(
    tenant: Tenant, replicas: Replicas
) -> None:
    operator = await replicas.lead("--namespaces", tenant.namespace)  # others have fine-tunes of earlier tests
    before = await requests(operator)
    await tenant.create_finetune()
    await tenant.until("Pending", "Unschedulable")
    used = await requests(operator) - before
    del used["PUT"]  # the statuses, and the Lease
    assert used == {"POST": 3}  # the snapshot, the Job, and the event that its pod gets no node


async def test_metrics_count_reconciles_and_requests(tenant: Tenant, operator: OperatorProcess) -> None:
    await tenant.create_finetune()
    await tenant.pod()
    text = (await operator.get("/metrics"))[1]
    for name in (
        'loraline_reconciles_total{kind="LoraFineTune",result="done"}',
        'loraline_api_requests_total{method="POST",status="201"}',
        "loraline_leader 1.0",
        "loraline_queue_depth",
        "loraline_reconcile_seconds_bucket",
    ):
        assert name in text
