"""Deletions on a real API server: at once, or, with the output, by a Job that holds no object for good."""

from __future__ import annotations

import pytest

from harness import operator_process as harness
from harness.operator_process import OperatorProcess, Tenant, eventually
from loraline_operator.actions import Kind

DELETE = {"uri": "s3://adapters/tickets", "deletionPolicy": "Delete"}

HELD = "loraline.dev/tests-hold-it"
"""A finalizer of a pod that takes its time to end, as no kubelet does here."""


async def deleting(tenant: Tenant, operator: OperatorProcess) -> str:
    """A fine-tune that was trained and is deleted, in the foreground as Argo CD does it; the Job for its output."""
    await tenant.create_finetune(output=DELETE)
    await tenant.end_pod(0)
    await tenant.until("Succeeded")
    command = ("delete", "lorafinetune", "tickets", "--cascade=foreground", "--wait=false")
    harness.kubectl(operator.kubeconfig, "--namespace", tenant.namespace, *command)

    async def look() -> str | None:
        return next((name for name in await tenant.jobs() if "-delete-" in name), None)

    return await eventually(look, "the Job that deletes the output")


async def is_gone(tenant: Tenant) -> bool:
    return not await tenant.names(Kind.FINE_TUNE)


async def test_the_object_goes_when_the_job_has_deleted_its_output(tenant: Tenant, operator: OperatorProcess) -> None:
    job = await deleting(tenant, operator)
    pod = await tenant.pod(job)

    async def is_told() -> bool:
        status = await tenant.until("Deleting", "Deleting")
        return status.conditions[0].message.startswith(f"tickets is deleted when Job {job} has deleted")

    await eventually(is_told, "the status tells of the Job")
    await tenant.end_this(pod, 0)
    await eventually(lambda: is_gone(tenant), "the fine-tune is gone")

    async def no_job() -> bool:
        return not await tenant.jobs()

    await eventually(no_job, "its Jobs are gone")


async def test_a_refused_deletion_of_the_output_is_told_and_lets_the_object_go(
    tenant: Tenant, operator: OperatorProcess
) -> None:
    job = await deleting(tenant, operator)
    await tenant.end_pod(15, "the storage denies access to s3://adapters", job=job)
    await eventually(lambda: is_gone(tenant), "the fine-tune is gone")

    async def told() -> list[str] | None:
        events = [item async for item in tenant.cluster.list(Kind.EVENT, tenant.namespace)]
        return [item["message"] for item in events if item["reason"] == "OutputNotDeleted"] or None

    (message,) = await eventually(told, "an event about it")
    assert "the storage denies access to s3://adapters; delete it by hand" in message


async def test_a_namespace_that_is_deleted_does_not_wait_for_outputs(tenant: Tenant, operator: OperatorProcess) -> None:
    await tenant.create_finetune(output=DELETE)
    await tenant.end_pod(0)
    await tenant.until("Succeeded")
    harness.kubectl(operator.kubeconfig, "delete", "namespace", tenant.namespace, "--timeout=60s")


async def test_a_deletion_that_leaves_the_output_needs_no_operator(tenant: Tenant, operator: OperatorProcess) -> None:
    await tenant.create_finetune()
    await tenant.start_pod()
    await tenant.until("Running")
    await operator.stop()
    command = ("delete", "lorafinetune", "tickets", "--timeout=10s")
    harness.kubectl(operator.kubeconfig, "--namespace", tenant.namespace, *command)
    assert await is_gone(tenant)


@pytest.mark.usefixtures("operator")
async def test_a_fine_tune_made_again_waits_until_the_old_ones_pod_has_ended(tenant: Tenant) -> None:
    await tenant.create_finetune()
    pod = await tenant.start_pod()
    ref = tenant.ref(Kind.POD, pod["metadata"]["name"])
    await tenant.cluster.patch(ref, {"metadata": {"finalizers": [*pod["metadata"]["finalizers"], HELD]}})
    await tenant.until("Running")
    await tenant.delete(Kind.FINE_TUNE, "tickets")
    await tenant.create_finetune()

    async def waits() -> bool:
        told = (await tenant.until("Pending", "Pending")).conditions[0].message
        return told.endswith(f"starts when pod {ref.name} has ended")

    await eventually(waits, "it says what it waits for")
    await tenant.cluster.patch(ref, {"metadata": {"finalizers": []}})
    await tenant.end_this(await tenant.pod(after=pod), 0)
    await tenant.until("Succeeded")


@pytest.mark.usefixtures("operator")
async def test_a_fine_tune_made_again_is_no_conflict_with_what_the_old_one_leaves(tenant: Tenant) -> None:
    await tenant.create_finetune()
    await tenant.end_pod(0)
    await tenant.until("Succeeded")
    await tenant.delete(Kind.FINE_TUNE, "tickets")
    await tenant.create_finetune()
    await tenant.until("Pending", "Unschedulable")
    events = [item async for item in tenant.cluster.list(Kind.EVENT, tenant.namespace)]
    assert "NameConflict" not in [item["reason"] for item in events]
    await tenant.end_pod(0)
    await tenant.until("Succeeded")


@pytest.mark.usefixtures("operator")
async def test_a_fine_tune_made_again_waits_until_the_old_ones_output_is_deleted(
    tenant: Tenant, operator: OperatorProcess
) -> None:
    job = await deleting(tenant, operator)
    await tenant.end_pod(0, job=job)
    await eventually(lambda: is_gone(tenant), "the fine-tune is gone")
    await tenant.create_finetune(output=DELETE)
    await tenant.end_pod(0)
    await tenant.until("Succeeded")
