"""What a tenant reads when something is wrong, on a real API server."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.operator_process import Tenant, eventually, kubectl
from loraline_api.conditions import Condition
from loraline_operator.actions import Kind

pytestmark = pytest.mark.usefixtures("operator")


async def test_a_missing_configmap_is_said_and_its_creation_starts_the_run(tenant: Tenant) -> None:
    await tenant.create_finetune(dataset={"train": {"uri": "configmap://data/train"}})
    status = await tenant.until("Pending", "DatasetNotFound")
    assert "there is no ConfigMap data in this namespace; create it" in status.conditions[0].message
    await tenant.create_data("data", {"train": "{}"})
    await tenant.until("Pending", "Unschedulable")


async def test_a_missing_key_names_the_keys_that_are_there(tenant: Tenant) -> None:
    await tenant.create_data("data", {"eval": "{}"})
    await tenant.create_finetune(dataset={"train": {"uri": "configmap://data/train"}})
    status = await tenant.until("Pending", "DatasetNotFound")
    assert "has no key train (its keys: eval)" in status.conditions[0].message


async def test_data_too_large_for_a_configmap_says_size_limit_and_way_out(tenant: Tenant) -> None:
    await tenant.create_data("data", {"train": "x" * 950_000})
    await tenant.create_finetune(dataset={"train": {"uri": "configmap://data/train"}})
    status = await tenant.until("Pending", "DatasetInvalid")
    assert "has 950000 bytes and the limit is 921600; put it into s3://" in status.conditions[0].message


async def test_a_job_that_may_not_have_a_pod_says_what_the_api_server_said(tenant: Tenant) -> None:
    await tenant.create_finetune(compute={"gpus": 0, "serviceAccountName": "nobody"})
    status = await tenant.until("Pending", "ConfigMissing")
    assert 'serviceaccount "nobody" not found; create what is missing' in status.conditions[0].message


async def test_a_job_that_the_api_server_does_not_take_is_told_with_the_field_until_the_spec_is_mended(
    tenant: Tenant,
) -> None:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "Within"}]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    await tenant.create_finetune(compute={"gpus": 0, "affinity": affinity})
    status = await tenant.until("Pending", "InvalidSpec")
    assert "spec.template.spec.affinity.nodeAffinity" in status.conditions[0].message
    assert status.conditions[0].message.endswith("; mend the spec")
    await tenant.edit({"compute": {"affinity": None}})
    await tenant.until("Pending", "Unschedulable")


async def test_a_job_that_a_quota_keeps_out_is_told_with_the_limit_and_starts_once_there_is_room(
    tenant: Tenant, kubeconfig: Path
) -> None:
    quota = ("quota", "team", f"--namespace={tenant.namespace}")
    kubectl(kubeconfig, "create", *quota, "--hard=count/jobs.batch=0")
    kubectl(kubeconfig, "wait", *quota, "--for=jsonpath={.status.hard}", "--timeout=60s")
    await tenant.create_finetune()
    status = await tenant.until("Pending", "NotAdmitted")
    assert "exceeded quota: team, requested: count/jobs.batch=1" in status.conditions[0].message
    assert status.conditions[0].message.endswith("raise that limit, or free what counts against it")
    kubectl(kubeconfig, "delete", *quota)
    await tenant.edit({"retries": 1})  # it need not wait for its minute
    await tenant.until("Pending", "Unschedulable")


async def test_a_secret_that_cannot_be_mounted_is_told_from_the_pods_events(tenant: Tenant) -> None:
    await tenant.create_finetune(output={"uri": "s3://adapters/x", "secretRef": {"name": "absent"}})
    pod = await tenant.pod()
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "mount", "namespace": tenant.namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": pod["metadata"]["name"],
            "namespace": tenant.namespace,
            "uid": pod["metadata"]["uid"],
        },
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "secret-output" : secret "absent" not found',
        "type": "Warning",
    }
    await tenant.cluster.create(tenant.ref(Kind.EVENT, "mount"), event)
    scheduled = {"type": "PodScheduled", "status": "True"}
    await tenant.set_pod_status(pod["metadata"]["name"], {"conditions": [scheduled]})
    told = await tenant.until("Pending", "ConfigMissing")
    assert 'secret "absent" not found; create what is missing' in told.conditions[0].message


async def test_a_snapshot_name_that_is_taken_is_said_and_freeing_it_starts_the_run(tenant: Tenant) -> None:
    await tenant.create_finetune(suspend=True)
    status = await tenant.until("Suspended")
    assert status.run is not None
    name = f"tickets-{status.run.id}"
    await tenant.create_data(name, {"mine": "x"})
    await tenant.edit({"suspend": False})
    told = await tenant.until("Pending", "NameConflict")
    message = f"ConfigMap {name} exists and belongs to something else; delete it or rename this fine-tune"
    assert told.conditions[0].message == message
    await tenant.delete(Kind.CONFIG_MAP, name)
    await tenant.edit({"retries": 3})
    await tenant.until("Pending", "Unschedulable")


async def test_a_pod_killed_at_its_memory_limit_says_so(tenant: Tenant) -> None:
    compute = {"gpus": 0, "requests": {"memory": "2Gi"}}
    await tenant.create_finetune(retries=0, compute=compute)
    await tenant.end_pod(137, reason="OOMKilled", text="")
    status = await tenant.until("Failed", "OutOfMemory")
    assert "was killed at its memory limit, 2Gi (exit code 137); raise spec.compute.requests.memory" in (
        status.conditions[0].message
    )


async def test_kubectl_wait_and_kstatus_see_a_failed_run_as_failed(tenant: Tenant) -> None:
    await tenant.create_finetune()
    await tenant.end_pod(17, "exactMatch is 0.2 and the gate asks for at least 0.9")
    status = await tenant.until("Failed", "EvalBelowThreshold")

    async def flags() -> dict[str, str]:
        conditions: list[Condition] = status.conditions
        return {condition.type: condition.status.value for condition in conditions}

    assert (await eventually(flags, "conditions")) == {
        "Ready": "False",
        "Running": "False",
        "Evaluated": "False",
        "AdapterPublished": "False",
        "Complete": "False",
        "Failed": "True",
        "Stalled": "True",
    }
