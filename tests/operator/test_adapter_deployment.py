"""AdapterDeployments on a real API server: children, checks, routes by name and by label.

Pods are played; serving itself is tested with a real kubelet and vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from harness.operator_process import VERSION, Tenant, eventually
from harness.serving_pod import end_check, serving_pod, table_of
from loraline_api import conditions
from loraline_api.conditions import ConditionType, Reason
from loraline_api.deployment import AdapterDeploymentStatus
from loraline_api.preflight import Verdict
from loraline_operator import observed
from loraline_operator.actions import Kind, Manifest

pytestmark = pytest.mark.usefixtures("operator")

LABELS = {"serve": "support"}
SELECTING = {"adapters": [], "adapterSelector": {"matchLabels": LABELS}, "storage": {}}


async def create_deployment(tenant: Tenant, **spec: Any) -> None:
    body = {
        "apiVersion": "loraline.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": "support", "namespace": tenant.namespace},
        "spec": {
            "baseModel": {"uri": "hf://org/model"},
            "adapters": [{"name": "tickets", "finetuneRef": {"name": "tickets"}}],
            "compute": {"gpus": 0},
            **spec,
        },
    }
    await tenant.cluster.create(tenant.ref(Kind.ADAPTER_DEPLOYMENT, "support"), body)


async def status(tenant: Tenant) -> AdapterDeploymentStatus:
    manifest = await tenant.cluster.get(tenant.ref(Kind.ADAPTER_DEPLOYMENT, "support"))
    assert manifest is not None
    return observed.deployment(manifest).status


async def until_served(tenant: Tenant, **routes: str | None) -> AdapterDeploymentStatus:
    """The status once these are the routes, with the versions that answer."""

    async def look() -> AdapterDeploymentStatus | None:
        now = await status(tenant)
        table = await table_of(tenant, "support")
        in_table = {route.name: route.serving for route in table.routes} if table is not None else None
        is_served = {route.name: route.version for route in now.routes} == routes == in_table
        return now if is_served else None

    return await eventually(look, f"routes {routes}: {await status(tenant)}", limit_s=30)


async def label(tenant: Tenant, name: str, labels: Mapping[str, str | None]) -> None:
    await tenant.cluster.patch(tenant.ref(Kind.FINE_TUNE, name), {"metadata": {"labels": dict(labels)}})


async def finish(tenant: Tenant, name: str) -> None:
    """Lets a fine-tune succeed."""

    async def look() -> str | None:
        run = (await tenant.status(name)).run
        return run.id if run is not None else None

    await tenant.end_pod(0, job=f"{name}-{await eventually(look, 'a run')}-1")
    await tenant.until("Succeeded", name=name)


async def test_a_version_is_checked_by_a_job_and_then_served(tenant: Tenant) -> None:
    await create_deployment(tenant)
    await eventually(lambda: table_of(tenant, "support"), "the routing table")
    await tenant.create_finetune()
    for kind in (Kind.DEPLOYMENT, Kind.SERVICE):

        async def child(kind: Kind = kind) -> Manifest | None:
            return await tenant.cluster.get(tenant.ref(kind, "support"))

        await eventually(child, f"the {kind}")
    async with serving_pod(tenant, "support", "127.7.7.8") as pod:
        await finish(tenant, "tickets")
        job = await end_check(tenant, "support")
        served = await until_served(tenant, tickets=VERSION)
        (told,) = served.pods
        assert (told.name, [(item.route, item.version, item.phase) for item in told.versions]) == (
            pod,
            [("tickets", VERSION, "Proved")],
        )

        async def is_gone() -> bool:
            return await tenant.cluster.get(tenant.ref(Kind.JOB, job)) is None

        await eventually(is_gone, "the check is removed")


async def test_a_version_that_fails_its_check_is_told_and_gets_into_no_table(tenant: Tenant) -> None:
    await create_deployment(tenant)
    await tenant.create_finetune()
    async with serving_pod(tenant, "support", "127.7.7.9"):
        await finish(tenant, "tickets")
        message = f"adapter {VERSION} has a NaN; train again"
        verdict = Verdict(version=VERSION, reason=Reason.ADAPTER_INVALID, message=message)
        await end_check(tenant, "support", verdict)

        async def told() -> str | None:
            ready = conditions.find(tuple((await status(tenant)).conditions), ConditionType.READY)
            return ready.message if ready is not None and ready.reason == Reason.ADAPTER_INVALID else None

        assert await eventually(told, "the refusal") == f"route tickets: version {VERSION} was refused: {message}"
        table = await table_of(tenant, "support")
        assert table is not None
        assert table.routes[0].versions == []


async def test_labelled_fine_tunes_become_routes_and_go_with_label_and_object(tenant: Tenant) -> None:
    await create_deployment(tenant, **SELECTING)
    async with serving_pod(tenant, "support", "127.7.7.10"):
        for name in ("tickets", "tone"):
            await tenant.create_finetune(name)
            await finish(tenant, name)
        await until_served(tenant)
        await label(tenant, "tickets", LABELS)
        await end_check(tenant, "support")
        await until_served(tenant, tickets=VERSION)
        await label(tenant, "tone", LABELS)
        await end_check(tenant, "support")
        await until_served(tenant, tickets=VERSION, tone=VERSION)
        await label(tenant, "tickets", {"serve": None})
        await until_served(tenant, tone=VERSION)
        await tenant.delete(Kind.FINE_TUNE, "tone")
        await until_served(tenant)
        selected = conditions.find(tuple((await status(tenant)).conditions), ConditionType.SELECTED)
        assert selected is not None
        assert selected.message == "spec.adapterSelector matches 0 LoraFineTunes, 0 of them are routes"


async def test_a_service_of_somebody_else_is_named_with_its_owner(tenant: Tenant) -> None:
    await tenant.create_data("db", {"a": "b"})
    owner = await tenant.cluster.get(tenant.ref(Kind.CONFIG_MAP, "db"))
    assert owner is not None
    reference = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "db",
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "support", "namespace": tenant.namespace, "ownerReferences": [reference]},
        "spec": {"ports": [{"port": 80}]},
    }
    await tenant.cluster.create(tenant.ref(Kind.SERVICE, "support"), service)
    await create_deployment(tenant)

    async def told() -> str | None:
        stalled = conditions.find(tuple((await status(tenant)).conditions), ConditionType.STALLED)
        return stalled.message if stalled is not None else None

    assert await eventually(told, "the conflict") == (
        "Service support exists and belongs to ConfigMap db; delete it or create this object under another name"
    )


async def test_deletion_lets_the_deployment_and_its_children_go(tenant: Tenant) -> None:
    await create_deployment(tenant)
    await eventually(lambda: table_of(tenant, "support"), "the routing table")
    await tenant.delete(Kind.ADAPTER_DEPLOYMENT, "support")

    async def all_gone() -> bool:
        kinds = (Kind.ADAPTER_DEPLOYMENT, Kind.DEPLOYMENT, Kind.SERVICE)
        left = [name for kind in kinds for name in await tenant.names(kind)]
        return not left and await tenant.names(Kind.CONFIG_MAP) == ["kube-root-ca.crt"]

    await eventually(all_gone, "nothing is left")
