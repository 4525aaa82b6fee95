"""The life of a run on a real API server: from the object to its Job, and from the pod's end to the status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from harness.operator_process import VERSION, OperatorProcess, Tenant, eventually
from loraline_api.progress import PROGRESS_PORT, Progress, Stage
from loraline_operator.actions import Kind

pytestmark = pytest.mark.usefixtures("operator")


async def trained(tenant: Tenant, **spec: Any) -> str:
    """A fine-tune whose first run has succeeded; the name of its Job."""
    await tenant.create_finetune(**spec)
    await tenant.end_pod(0)
    await tenant.until("Succeeded")
    (job,) = await tenant.jobs()
    return job


async def test_a_fine_tune_becomes_a_job_and_its_success_an_adapter(tenant: Tenant) -> None:
    await tenant.create_finetune()
    await tenant.until("Pending", "Unschedulable")
    await tenant.start_pod()
    await tenant.until("Running")
    await tenant.end_pod(0)
    status = await tenant.until("Succeeded")
    assert status.run is not None
    assert status.adapter is not None
    assert (status.adapter.version, await tenant.jobs()) == (VERSION, [f"tickets-{status.run.id}-1"])

    async def told() -> list[str] | None:
        events = [item async for item in tenant.cluster.list(Kind.EVENT, tenant.namespace)]
        ours = [item["reason"] for item in events if item["involvedObject"]["kind"] == "LoraFineTune"]
        return ours if "Succeeded" in ours else None

    reasons = await eventually(told, "an event of its success, which comes after the status")
    assert sorted(reasons) == ["Running", "Succeeded", "Unschedulable"]


async def test_the_snapshot_holds_run_and_data_and_cannot_be_changed(tenant: Tenant) -> None:
    await tenant.create_data("data", {"train": '{"prompt": "a", "completion": "b"}\n'})
    await tenant.create_finetune(dataset={"train": {"uri": "configmap://data/train"}})
    run_id = (await tenant.pod())["metadata"]["labels"]["loraline.dev/run"]
    snapshot = await tenant.cluster.get(tenant.ref(Kind.CONFIG_MAP, f"tickets-{run_id}"))
    assert snapshot is not None
    assert (snapshot["immutable"], snapshot["data"]["train.data"]) == (True, '{"prompt": "a", "completion": "b"}\n')
    assert json.loads(snapshot["data"]["run.json"])["id"] == run_id


async def test_progress_of_the_running_pod_is_shown(tenant: Tenant) -> None:
    progress = Progress(stage=Stage.TRAINING, percent=40, step=10, total_steps=24, loss="0.8", eta_seconds=200)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=progress.model_dump_json(by_alias=True), content_type="application/json")

    application = web.Application()
    application.router.add_get("/progress", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.7.7.7", PROGRESS_PORT).start()
    try:
        await tenant.create_finetune()
        await tenant.start_pod(ip="127.7.7.7")

        async def look() -> bool:
            display = (await tenant.status()).display
            return display is not None and (display.progress, display.loss, display.eta) == ("40%", "0.8", "3m20s")

        await eventually(look, "40% in the status")
    finally:
        await runner.cleanup()


async def test_a_permanent_failure_is_said_once_and_not_retried(tenant: Tenant) -> None:
    await tenant.create_finetune()
    await tenant.end_pod(12, "dataset.train: line 3 is not JSON; mend the line")
    status = await tenant.until("Failed", "DatasetInvalid")
    assert status.conditions[0].message == "dataset.train: line 3 is not JSON; mend the line"
    assert len(await tenant.jobs()) == 1


async def test_storage_that_is_down_is_retried_by_a_second_job(tenant: Tenant) -> None:
    await tenant.create_finetune()
    await tenant.end_pod(40, "S3 is down")
    status = await tenant.until("Pending", "Retrying")
    assert status.run is not None
    await tenant.end_pod(0, job=f"tickets-{status.run.id}-2")
    await tenant.until("Succeeded")
    assert await tenant.jobs() == [f"tickets-{status.run.id}-1", f"tickets-{status.run.id}-2"]


async def test_an_edit_replaces_the_live_job_and_a_revert_finds_the_earlier_adapter(tenant: Tenant) -> None:
    first = await trained(tenant)
    await tenant.edit({"adapter": {"rank": 8}})
    await tenant.start_pod()
    await tenant.until("Running")
    await tenant.edit({"adapter": {"rank": 16}})
    status = await tenant.until("Succeeded")

    async def only_the_first() -> bool:
        return await tenant.jobs() == [first]

    await eventually(only_the_first, "the Job of the abandoned run is gone")
    assert status.adapter is not None
    assert (status.adapter.version, first.endswith(f"{status.adapter.run_id}-1")) == (VERSION, True)


async def test_an_edit_of_a_marked_configmap_starts_a_run_at_once(tenant: Tenant) -> None:
    await tenant.create_data("data", {"train": "{}"}, {"loraline.dev/dataset": "true"})
    await trained(tenant, dataset={"train": {"uri": "configmap://data/train"}})
    await tenant.cluster.patch(tenant.ref(Kind.CONFIG_MAP, "data"), {"data": {"train": '{"a": 1}'}})
    await tenant.until("Pending", "Unschedulable")
    assert len(await tenant.jobs()) == 2


async def test_suspending_deletes_the_job_and_resuming_makes_the_same_again(tenant: Tenant) -> None:
    await tenant.create_finetune()
    before = await tenant.pod()
    jobs = await tenant.jobs()
    await tenant.edit({"suspend": True})
    await tenant.until("Suspended")

    async def none() -> bool:
        return not await tenant.jobs()

    await eventually(none, "no Job while suspended")
    await tenant.edit({"suspend": False})
    await tenant.pod(after=before)
    assert await tenant.jobs() == jobs


async def test_a_job_deleted_by_hand_is_made_again_and_after_success_is_not(tenant: Tenant) -> None:
    await tenant.create_finetune()
    before = await tenant.pod()
    (job,) = await tenant.jobs()
    await tenant.delete(Kind.JOB, job)
    another = await tenant.pod(after=before)
    assert await tenant.jobs() == [job]
    await tenant.end_this(another, 0)
    await tenant.until("Succeeded")
    await tenant.delete(Kind.JOB, job)
    await tenant.edit({"retries": 5})
    await tenant.until("Succeeded")
    assert await tenant.jobs() == []


async def test_deletion_removes_jobs_pods_and_snapshots(tenant: Tenant) -> None:
    await tenant.create_finetune()
    await tenant.start_pod()
    await tenant.until("Running")
    await tenant.delete(Kind.FINE_TUNE, "tickets")

    async def all_gone() -> bool:
        kinds = (Kind.FINE_TUNE, Kind.JOB, Kind.POD)
        left = [name for kind in kinds for name in await tenant.names(kind)]
        return not left and await tenant.names(Kind.CONFIG_MAP) == ["kube-root-ca.crt"]

    await eventually(all_gone, "nothing is left")


async def test_the_ttl_removes_the_job_and_leaves_the_object(tenant: Tenant, operator: OperatorProcess) -> None:
    await trained(tenant, ttlSecondsAfterFinished=1)

    async def none() -> bool:
        return not await tenant.jobs()

    await eventually(none, "no Job after its TTL")
    assert (await tenant.until("Succeeded")).adapter is not None
