"""The policy ConfigMap on a real API server: edits without restart, a hundred that wait, broken policies, the line for
GPUs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import yaml

from harness import operator_process as harness
from harness.operator_process import OperatorProcess, Replicas, Tenant, eventually
from loraline_operator import errors
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster

POLICY = Ref(Kind.CONFIG_MAP, harness.OPERATOR_NAMESPACE, "loraline-policy")
WAITING = 100
LOOK_S = 0.25
QUIET_S = 1.0
"""Time in which a write that should not be would come."""

SetPolicy = Callable[..., Awaitable[None]]


@pytest.fixture
async def set_policy(cluster: Cluster) -> AsyncIterator[SetPolicy]:
    """Writes the policy; it is gone after the test."""

    async def write(text: str | None = None, **document: Any) -> None:
        data = {"policy.yaml": yaml.safe_dump(document) if text is None else text}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": POLICY.name, "namespace": POLICY.namespace},
            "data": data,
        }
        try:
            await cluster.create(POLICY, body)
        except errors.AlreadyExists:
            await cluster.patch(POLICY, {"data": data})

    yield write
    there = await cluster.get(POLICY)
    if there is not None:
        await cluster.delete(POLICY, there["metadata"]["uid"])


def ready_of(manifest: Manifest) -> tuple[str, str]:
    """Reason and message of Ready, once the operator has seen the object's newest spec."""
    status = manifest.get("status") or {}
    if status.get("observedGeneration") != manifest["metadata"]["generation"]:
        return "", ""
    return next((item["reason"], item["message"]) for item in status["conditions"] if item["type"] == "Ready")


async def all_of(tenant: Tenant) -> list[Manifest]:
    """All fine-tunes of the namespace."""
    return [item async for item in tenant.cluster.list(Kind.FINE_TUNE, tenant.namespace)]


async def until_all(tenant: Tenant, what: str, holds: Callable[[list[tuple[str, str]]], bool]) -> float:
    """Waits until reasons and messages of all fine-tunes are as they should be; the seconds that it took."""
    began = asyncio.get_running_loop().time()
    while not holds(told := [ready_of(item) for item in await all_of(tenant)]):
        took_s = asyncio.get_running_loop().time() - began
        assert took_s < harness.LIMIT_S, f"{what}, and not {Counter(told)}"
        await asyncio.sleep(LOOK_S)
    return asyncio.get_running_loop().time() - began


async def until_reasons(tenant: Tenant, **wanted: int) -> None:
    """Waits until exactly so many fine-tunes have these reasons."""
    await until_all(tenant, str(wanted), lambda told: Counter(reason for reason, _ in told) == Counter(wanted))


class Changes:
    """A name for each write to a fine-tune of a namespace, by a watch from before the first one on."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._taken = 0

    async def follow(self, tenant: Tenant, since: str) -> None:
        """Takes in what happens after a resource version, for ever.

        The API server closes a watch whose reader falls behind; another one goes on from where that was.
        """
        while True:
            with contextlib.suppress(errors.Transient):
                async for kind, manifest in tenant.cluster.watch(Kind.FINE_TUNE, tenant.namespace, since=since):
                    since = manifest["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        self._names.append(manifest["metadata"]["name"])
            await asyncio.sleep(LOOK_S)

    async def of_all(self, names: set[str]) -> Counter[str]:
        """Writes by object since the last look, once there is one of each; the watch is late on a busy machine."""

        async def look() -> bool:
            return names <= set(self._names[self._taken :])

        await eventually(look, "the watch tells of every fine-tune")
        await asyncio.sleep(QUIET_S)
        return self.take()

    def take(self) -> Counter[str]:
        """Writes by object since the last look."""
        found = Counter(self._names[self._taken :])
        self._taken = len(self._names)
        return found


@pytest.fixture
async def changes(tenant: Tenant) -> AsyncIterator[Changes]:
    """Counts the writes to the fine-tunes of the test's namespace."""
    pages = [page async for page in tenant.cluster.pages(Kind.FINE_TUNE, tenant.namespace)]
    counting = Changes()
    task = asyncio.create_task(counting.follow(tenant, pages[0].version))
    yield counting
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_an_edit_judges_a_hundred_that_wait_with_one_status_write_each(
    tenant: Tenant, replicas: Replicas, set_policy: SetPolicy, changes: Changes
) -> None:
    await set_policy(limits={"rank": 16})
    operator = await replicas.lead()
    ranks = {f"f{number:03}": 32 if number % 2 else 64 for number in range(WAITING)}
    await asyncio.gather(*(tenant.create_finetune(name, adapter={"rank": rank}) for name, rank in ranks.items()))
    await until_reasons(tenant, PolicyViolation=WAITING)
    assert set(await changes.of_all(set(ranks))) == set(ranks)

    await set_policy(limits={"rank": 24})  # every message changes
    took_s = await until_all(tenant, "24 is said", lambda told: all("allows 24" in message for _, message in told))
    assert await changes.of_all(set(ranks)) == Counter(ranks.keys())
    print(f"{WAITING} fine-tunes judged again in {took_s:.1f} s")

    await set_policy(limits={"rank": 24, "maxSeqLength": 4096})  # no verdict changes
    await asyncio.sleep(2 * QUIET_S)
    assert changes.take() == Counter()

    await set_policy(limits={"rank": 32})
    await until_reasons(tenant, Unschedulable=WAITING // 2, PolicyViolation=WAITING // 2)
    assert len(await tenant.jobs()) == WAITING // 2
    assert operator.is_running


async def test_an_edit_leaves_alone_what_runs_and_its_retry(
    tenant: Tenant, replicas: Replicas, operator: OperatorProcess, set_policy: SetPolicy
) -> None:
    await tenant.create_finetune(retries=1)
    await tenant.start_pod()
    await tenant.until("Running")
    await set_policy(limits={"rank": 8})

    async def is_in_force() -> bool:
        return "the policy is in force" in replicas.logs()

    await eventually(is_in_force, "the operator has seen the policy")
    await tenant.create_finetune("later")
    await tenant.until("Pending", "PolicyViolation", "later")
    assert (await tenant.status()).phase == "Running"
    await tenant.end_pod(1, "a fault")
    await tenant.until("Pending", "Retrying")
    await tenant.until("Pending", "Unschedulable")
    assert len(await tenant.jobs()) == 2
    assert operator.is_running


async def test_a_broken_edit_leaves_the_policy_of_before_in_force_and_is_told(
    tenant: Tenant, replicas: Replicas, set_policy: SetPolicy
) -> None:
    await set_policy(limits={"rank": 8})
    operator = await replicas.lead()
    await set_policy("limits: {rank: many}")

    async def told() -> str | None:
        events = [
            item
            async for item in tenant.cluster.list(
                Kind.EVENT, POLICY.namespace, fields="involvedObject.kind=ConfigMap,reason=PolicyInvalid"
            )
        ]
        return next((str(item["message"]) for item in events), None)

    sentence = await eventually(told, "an event on the ConfigMap")
    assert sentence.startswith(f"{POLICY}, policy.yaml: limits.rank is 'many': ")
    assert sentence.endswith("; mend it; the policy of before stays in force")
    code, answer = await operator.get("/readyz")
    assert (code, json.loads(answer)["message"]) == (200, sentence)
    _, metrics = await operator.get("/metrics")
    assert "loraline_policy_valid 0.0" in metrics
    assert "loraline_policy_refusals_total 1.0" in metrics
    await tenant.create_finetune()
    await tenant.until("Pending", "PolicyViolation")
    await set_policy(limits={"rank": 64})
    await tenant.until("Pending", "Unschedulable")
    _, metrics = await operator.get("/metrics")
    assert "loraline_policy_valid 1.0" in metrics


async def test_an_operator_that_starts_with_a_broken_policy_is_not_ready_and_touches_nothing(
    tenant: Tenant, replicas: Replicas, set_policy: SetPolicy
) -> None:
    await set_policy("limits: {ranks: 8}")
    operator = await replicas.start()

    async def unready() -> str | None:
        code, answer = await operator.get("/readyz")
        return str(json.loads(answer)["message"]) if code == 503 else None

    sentence = await eventually(unready, "/readyz says no")

    async def says() -> bool:
        return (await unready() or "").startswith(
            f"{POLICY}, policy.yaml: limits.ranks is no field of a policy; mend it"
        )

    await eventually(says, f"/readyz says why, and not {sentence}")
    await tenant.create_finetune()
    await asyncio.sleep(2.5)  # longer than the time between two looks at the policy
    assert await tenant.jobs() == []
    await set_policy(limits={"rank": 64})
    await eventually(operator.is_leading, "it is ready")
    await tenant.until("Pending", "Unschedulable")


async def test_fine_tunes_over_the_limit_of_gpus_wait_by_age_and_start_as_others_end(
    tenant: Tenant, replicas: Replicas, set_policy: SetPolicy
) -> None:
    await set_policy(limits={"gpus": 2})
    operator = await replicas.lead()
    names = [f"f{number}" for number in range(6)]
    await asyncio.gather(*(tenant.create_finetune(name, compute={"gpus": 1}) for name in names))
    await until_reasons(tenant, Unschedulable=2, WaitingForGpus=4)
    started = sorted(ready[0] for ready in await ends(tenant, "Unschedulable"))
    assert len(await tenant.jobs()) == 2
    told = (
        f"spec.compute asks for 1 GPU and the policy of namespace {tenant.namespace} allows 2 at once, of which 2 are "
        f"held by {started[0]}, {started[1]}; it starts when they end"
    )

    async def next_one() -> str | None:
        return next((name for name, message in await ends(tenant, "WaitingForGpus") if message == told), None)

    first = await eventually(next_one, told)
    job = next(name for name in await tenant.jobs() if name.startswith(started[0]))
    await tenant.end_pod(0, job=job)
    await tenant.until("Pending", "Unschedulable", first)
    await until_reasons(tenant, Succeeded=1, Unschedulable=2, WaitingForGpus=3)
    await tenant.edit({"suspend": True}, started[1])
    await until_reasons(tenant, Succeeded=1, Suspended=1, Unschedulable=2, WaitingForGpus=2)
    await set_policy(limits={"gpus": 4})
    await until_reasons(tenant, Succeeded=1, Suspended=1, Unschedulable=4)
    assert operator.is_running


async def ends(tenant: Tenant, reason: str) -> list[tuple[str, str]]:
    """Names and messages of the fine-tunes with that reason."""
    found = [(item["metadata"]["name"], *ready_of(item)) for item in await all_of(tenant)]
    return [(name, message) for name, told, message in found if told == reason]


async def test_a_card_that_is_too_small_is_said_before_any_pod(tenant: Tenant, operator: OperatorProcess) -> None:
    model = {"uri": "hf://meta-llama/Llama-3.3-70B-Instruct"}
    await tenant.create_finetune(baseModel=model, compute={"gpus": 1, "gpuType": "A10G"})
    status = await tenant.until("Pending", "GpuTooSmall")
    assert "needs at least 41.0 GiB of GPU memory" in status.conditions[0].message
    assert status.estimate is not None
    assert status.estimate.gpus == ["H100", "A100-80", "H200", "B200"]
    assert await tenant.jobs() == []
    await tenant.edit({"compute": {"gpuType": "H100"}})
    await tenant.until("Pending", "Unschedulable")
    assert operator.is_running
