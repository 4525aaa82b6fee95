"""The children of an AdapterDeployment on a real API server; serving itself is tested with a real kubelet and vLLM."""

from __future__ import annotations

import json

import pytest

from harness.operator_process import VERSION, Tenant, eventually
from loraline_operator.actions import Kind, Manifest

pytestmark = pytest.mark.usefixtures("operator")


async def create_deployment(tenant: Tenant) -> None:
    body = {
        "apiVersion": "loraline.dev/v1alpha1",
        "kind": "AdapterDeployment",
        "metadata": {"name": "support", "namespace": tenant.namespace},
        "spec": {
            "baseModel": {"uri": "hf://org/model"},
            "adapters": [{"name": "tickets", "finetuneRef": {"name": "tickets"}}],
            "compute": {"gpus": 0},
        },
    }
    await tenant.cluster.create(tenant.ref(Kind.ADAPTER_DEPLOYMENT, "support"), body)


async def table(tenant: Tenant) -> Manifest | None:
    config_map = await tenant.cluster.get(tenant.ref(Kind.CONFIG_MAP, "support-routes"))
    if config_map is None:
        return None
    result: Manifest = json.loads(config_map["data"]["routes.json"])
    return result


async def test_a_deployment_gets_its_children_and_follows_its_fine_tune(tenant: Tenant) -> None:
    await create_deployment(tenant)
    await eventually(lambda: table(tenant), "the routing table")
    await tenant.create_finetune()
    for kind in (Kind.DEPLOYMENT, Kind.SERVICE):

        async def child(kind: Kind = kind) -> Manifest | None:
            return await tenant.cluster.get(tenant.ref(kind, "support"))

        await eventually(child, f"the {kind}")
    await tenant.end_pod(0, job=f"tickets-{await run_id(tenant)}-1")
    await tenant.until("Succeeded")

    async def has_version() -> bool:
        routes = (await table(tenant) or {}).get("routes", [])
        return [version["version"] for route in routes for version in route["versions"]] == [VERSION]

    await eventually(has_version, "the fine-tune's version in the table")


async def run_id(tenant: Tenant) -> str:
    async def look() -> str | None:
        run = (await tenant.status()).run
        return run.id if run is not None else None

    return await eventually(look, "a run")


async def test_deletion_lets_the_deployment_and_its_children_go(tenant: Tenant) -> None:
    await create_deployment(tenant)
    await eventually(lambda: table(tenant), "the routing table")
    await tenant.delete(Kind.ADAPTER_DEPLOYMENT, "support")

    async def all_gone() -> bool:
        kinds = (Kind.ADAPTER_DEPLOYMENT, Kind.DEPLOYMENT, Kind.SERVICE)
        left = [name for kind in kinds for name in await tenant.names(kind)]
        return not left and await tenant.names(Kind.CONFIG_MAP) == ["kube-root-ca.crt"]

    await eventually(all_gone, "nothing is left")
