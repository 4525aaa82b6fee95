"""Fine-tunes in a queue, on a real API server: a stand-in keeps to Kueue's contract, the Job controller is real."""

from __future__ import annotations

import pytest

from harness.kueue import FLAVOR, Kueue
from harness.operator_process import Tenant, eventually
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest

pytestmark = pytest.mark.usefixtures("operator")
GPUS = {naming.KUEUE_QUEUE_LABEL: "gpus"}


@pytest.fixture
def kueue(tenant: Tenant) -> Kueue:
    """A queue with room for one pod."""
    return Kueue(tenant.cluster, tenant.namespace, quota=1)


async def the_job(tenant: Tenant, name: str) -> Manifest:
    """Waits for the Job of a fine-tune."""

    async def look() -> Manifest | None:
        labels = f"{naming.FINETUNE_LABEL}={name}"
        return next(iter([job async for job in tenant.cluster.list(Kind.JOB, tenant.namespace, labels=labels)]), None)

    return await eventually(look, f"a Job of {name}")


async def test_a_run_waits_in_its_queue_is_preempted_and_ends_as_its_first_attempt(
    tenant: Tenant, kueue: Kueue
) -> None:
    await tenant.create_finetune(labels=GPUS, retries=0)
    status = await tenant.until("Pending", "Queued")
    assert status.conditions[0].message.endswith("attempt 1 waits in queue gpus")
    assert await tenant.live_pods("tickets") == []
    await kueue.schedule()
    pod = await tenant.pod()
    assert pod["spec"]["nodeSelector"] == FLAVOR
    await tenant.start_pod()
    running = await tenant.until("Running")
    job = await the_job(tenant, "tickets")
    await kueue.preempt(job["metadata"]["name"])
    await tenant.until("Pending", "Preempted")

    async def is_told() -> bool:
        why = "stopped by Kueue (Preempted to accommodate a workload of higher priority)"
        return why in (await tenant.status()).conditions[0].message

    await eventually(is_told, "Kueue's words are told, which come after it has stopped the Job", limit_s=20)
    await kueue.schedule()
    again = await tenant.start_this(await tenant.pod(after=pod))
    await tenant.until("Running")
    await tenant.end_this(again, 0)
    status = await tenant.until("Succeeded")
    assert status.run is not None
    assert running.run is not None
    assert (status.run.attempt, status.run.failures, status.run.id) == (1, 0, running.run.id)
    assert (await the_job(tenant, "tickets"))["metadata"]["uid"] == job["metadata"]["uid"]


async def test_suspending_a_fine_tune_leaves_its_place_to_the_next_one(tenant: Tenant, kueue: Kueue) -> None:
    for name, more in (("first", {}), ("second", {"kueue.x-k8s.io/priority-class": "low"})):
        await tenant.create_finetune(name, labels=GPUS | more, output={"uri": f"s3://adapters/{name}"})
        await tenant.until("Pending", "Queued", name)
        await kueue.schedule()
    await tenant.start_pod(finetune="first")
    await tenant.until("Running", name="first")
    assert (await the_job(tenant, "second"))["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "low"
    await tenant.edit({"suspend": True}, "first")
    await tenant.until("Suspended", name="first")
    await kueue.schedule()
    await tenant.start_pod(finetune="second")
    await tenant.until("Running", name="second")
    await tenant.edit({"suspend": False}, "first")
    await tenant.until("Pending", "Queued", "first")
