"""What a flow plays on: a namespace, the hands of its user and of its kubelet, and the serving pods."""

from __future__ import annotations

from typing import Any

import yaml

from faults.switchboards import Switchboards
from harness.operator_process import Tenant, eventually
from loraline_api import conditions
from loraline_api.conditions import ConditionType, Reason
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import naming
from loraline_operator.actions import Kind, Manifest

FIRST, SECOND = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
"""Versions of adapters."""

POLICY = "loraline-policy"
"""Name of the policy's ConfigMap, unless the operator is told another."""


class Stage:
    """The namespace of one plan."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.pods = Switchboards(tenant)

    async def policy(self, **document: Any) -> None:
        """Writes the policy: the operator of a plan has its own, in the namespace of the plan."""
        ref = self.tenant.ref(Kind.CONFIG_MAP, POLICY)
        data = {"policy.yaml": yaml.safe_dump(document)}
        if await self.tenant.cluster.get(ref) is None:
            await self.tenant.create_data(ref.name, data)
        else:
            await self.tenant.cluster.patch(ref, {"data": data})

    async def refused(self, limit: str, name: str) -> None:
        """Waits until a fine-tune is refused in words with this limit."""

        async def look() -> bool:
            status = await self.tenant.status(name)
            ready = conditions.find(tuple(status.conditions), ConditionType.READY)
            return ready is not None and ready.reason == Reason.POLICY_VIOLATION and limit in ready.message

        await eventually(look, f"{name} is refused: {limit}")

    async def run_id(self, *, other_than: str | None = None, name: str = "tickets") -> str:
        """The current run, once it is another than that one."""

        async def look() -> str | None:
            run = (await self.tenant.status(name)).run
            return run.id if run is not None and run.id != other_than else None

        return await eventually(look, f"a run other than {other_than}")

    async def start(self, run: str, attempt: int = 1, name: str = "tickets") -> None:
        """The pod of an attempt runs."""
        await self.tenant.start_pod(job=naming.job_name(name, run, attempt))

    async def end(
        self, run: str, code: int = 0, *, attempt: int = 1, version: str = FIRST, name: str = "tickets"
    ) -> None:
        """The pod of an attempt ends."""
        await self.tenant.end_pod(code, "S3 is down", job=naming.job_name(name, run, attempt), version=version)

    async def no_pods(self) -> None:
        """Waits until the pods of what ended before are gone, so that the next step meets new ones."""

        async def look() -> bool:
            return not await self.tenant.names(Kind.POD)

        await eventually(look, "no pods")

    async def deploy(self, **spec: Any) -> None:
        """Applies an AdapterDeployment with the fine-tune `tickets` as its route."""
        body = {
            "apiVersion": "loraline.dev/v1alpha1",
            "kind": "AdapterDeployment",
            "metadata": {"name": "support", "namespace": self.tenant.namespace},
            "spec": {
                "baseModel": {"uri": "hf://org/model"},
                "adapters": [{"name": "tickets", "finetuneRef": {"name": "tickets"}}],
                "compute": {"gpus": 0},
                **spec,
            },
        }
        await self.tenant.cluster.create(self.tenant.ref(Kind.ADAPTER_DEPLOYMENT, "support"), body)

    async def deployment(self) -> Manifest:
        """The AdapterDeployment."""
        manifest = await self.tenant.cluster.get(self.tenant.ref(Kind.ADAPTER_DEPLOYMENT, "support"))
        assert manifest is not None
        return manifest

    async def scale(self, replicas: int) -> None:
        """Changes the number of serving pods."""
        ref = self.tenant.ref(Kind.ADAPTER_DEPLOYMENT, "support")
        await self.tenant.cluster.patch(ref, {"spec": {"replicas": replicas}})

    async def served(self, version: str, *, ready: int = 1, phase: str = "Ready") -> None:
        """Waits until the route answers with a version from that many pods, and nothing is on its way."""

        seen: Manifest = {}

        async def look() -> bool:
            manifest = await self.deployment()
            status = manifest.get("status") or {}
            seen.update(status)
            is_new = status.get("observedGeneration") == manifest["metadata"]["generation"]
            routes = [(route.get("version"), route.get("target")) for route in status.get("routes") or ()]
            counts = (status.get("phase"), status.get("readyReplicas"))
            flags = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
            rests = (flags.get("Loaded"), flags.get("Progressing")) == ("True", "False")
            return is_new and rests and routes == [(version, None)] and counts == (phase, ready)

        what = f"version {version} answers from {ready} pods, phase {phase};"
        await eventually(look, what, last=lambda: [seen.get("phase"), seen.get("routes"), seen.get("pods")])

    async def trained(self, version: str = FIRST) -> str:
        """A fine-tune whose run has succeeded; its run."""
        run = await self.run_id()
        await self.end(run, version=version)
        await self.tenant.until("Succeeded")
        return run

    async def train_two_versions(self) -> None:
        """Deploys, trains and serves a first version, and trains a second after an edit."""
        await self.deploy()
        await self.tenant.create_finetune()
        first = await self.trained()
        await self.served(FIRST)
        await self.tenant.edit({"adapter": {"rank": 8}})
        await self.end(await self.run_id(other_than=first), version=SECOND)

    async def status(self) -> LoraFineTuneStatus:
        """The fine-tune's status."""
        return await self.tenant.status()
