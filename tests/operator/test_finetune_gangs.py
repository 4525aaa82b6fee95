"""Runs on several nodes, on a real API server: its Job controller makes the pods, and the test gives them nodes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from harness.operator_process import PodGone, Replicas, Tenant, eventually
from loraline_operator.actions import Kind, Manifest

TWO = {"gpus": 0, "nodes": 2}


async def both(tenant: Tenant, name: str = "tickets") -> list[Manifest]:
    """Waits for the pods of both nodes."""

    async def look() -> list[Manifest] | None:
        pods = await tenant.live_pods(name)
        return pods if len(pods) == 2 else None

    return await eventually(look, "two pods")


@pytest.mark.usefixtures("operator")
async def test_two_nodes_find_each_other_by_name_and_end_as_one(tenant: Tenant) -> None:
    await tenant.create_finetune(compute=TWO)
    first, second = await both(tenant)
    (job,) = await tenant.jobs()
    (service,) = [name for name in await tenant.names(Kind.SERVICE) if name != "kubernetes"]
    host = f"{first['spec']['hostname']}.{first['spec']['subdomain']}"
    for pod in (first, second):
        environment = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
        assert (environment["PET_NNODES"], environment["PET_MASTER_ADDR"]) == ("2", host)
    assert host == f"{job}-0.{service}"
    await tenant.start_this(first)

    async def half_is_told() -> bool:
        return "1 of 2 pods run" in (await tenant.until("Pending", "Unschedulable")).conditions[0].message

    await eventually(half_is_told, "1 of 2 pods run")
    await tenant.start_this(second)
    await tenant.until("Running")
    await tenant.end_this(second, 0)
    await tenant.end_this(first, 0)
    await tenant.until("Succeeded")

    async def no_service() -> bool:
        return service not in await tenant.names(Kind.SERVICE)

    await eventually(no_service, "the Service is gone")


@pytest.mark.usefixtures("operator")
async def test_a_node_that_fails_ends_the_attempt_of_all(tenant: Tenant) -> None:
    await tenant.create_finetune(compute=TWO)
    pods = await both(tenant)
    for pod in pods:
        await tenant.start_this(pod)
    await tenant.until("Running")
    await tenant.end_this(pods[1], 12, "dataset.train: line 3 is not JSON; mend the line")
    status = await tenant.until("Failed", "DatasetInvalid")
    assert status.conditions[0].message == "dataset.train: line 3 is not JSON; mend the line"

    async def none() -> bool:
        return not await tenant.live_pods("tickets")

    await eventually(none, "the other pod is stopped")


async def test_a_drained_node_ends_the_attempt_and_counts_as_nothing(tenant: Tenant, replicas: Replicas) -> None:
    await replicas.lead()
    await tenant.create_finetune(compute=TWO, retries=0)
    pods = await both(tenant)
    for pod in pods:
        await tenant.start_this(pod)
    await tenant.until("Running")
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    await tenant.set_pod_status(pods[1]["metadata"]["name"], {"conditions": [drained]})
    await tenant.end_this(pods[1], 41)
    status = await tenant.until("Pending", "Retrying")
    assert status.run is not None
    assert (status.run.attempt, status.run.failures) == (2, 0)


async def test_two_runs_that_hold_half_of_what_the_other_needs_both_end_well(
    tenant: Tenant, replicas: Replicas
) -> None:
    """There is room for two pods in all, and each run has got one."""
    await replicas.lead("--gang-timeout-s", "1", "--first-retry-delay-s", "4")
    for name in ("one", "other"):
        await tenant.create_finetune(name, compute=TWO, output={"uri": f"s3://adapters/{name}"})
        (pod, _) = await both(tenant, name)
        await tenant.start_this(pod)
    seen: set[str] = set()

    async def schedule() -> bool:
        with contextlib.suppress(PodGone):  # taken back as it was given its node
            await give_nodes()
        statuses = [await tenant.status(name) for name in ("one", "other")]
        seen.update(condition.reason for status in statuses for condition in status.conditions)
        await asyncio.sleep(0.2)
        return all(status.phase == "Succeeded" for status in statuses)

    async def give_nodes() -> None:
        pods = [await tenant.live_pods(name) for name in ("one", "other")]
        for group in pods:
            if len(group) == 2 and all(pod["status"]["phase"] == "Running" for pod in group):
                for pod in reversed(group):
                    await tenant.end_this(pod, 0)
        running = sum(pod["status"]["phase"] == "Running" for group in pods for pod in group)
        waiting = [pod for group in pods for pod in group if pod["status"]["phase"] == "Pending"]
        for pod in waiting[: 2 - running]:
            await tenant.start_this(pod)

    await eventually(schedule, "both runs succeed")
    assert "GangTimeout" in seen
