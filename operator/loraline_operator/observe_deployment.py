"""Reads all that belongs to an AdapterDeployment: children, what its switchboards tell, checks of adapters, and the
fine-tunes that it names or selects.

What it means is decided in `plan_deployment`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import ValidationError

from loraline_api.preflight import CARD_PATH, MAX_CARD_BYTES
from loraline_api.routing import SWITCHBOARD_PORT, SwitchboardState
from loraline_operator import naming, observed, observed_deployment
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import Check, ObservedDeployment, ServingPod
from loraline_operator.poll import Poller

MAX_STATE_BYTES = 1 << 20
"""Largest /state: 256 routes with 4 versions of about 500 bytes each."""


class Observer:
    """Reads the children of AdapterDeployments."""

    def __init__(self, cluster: Cluster, poller: Poller) -> None:
        self._cluster = cluster
        self._poller = poller

    async def observe(self, object: DeploymentObject) -> ObservedDeployment:
        """All that belongs to the AdapterDeployment now."""
        namespace = object.meta.namespace
        labels = f"{naming.DEPLOYMENT_LABEL}={object.meta.name}"
        workload = await self._child(object, Kind.DEPLOYMENT, object.meta.name)
        service = await self._child(object, Kind.SERVICE, object.meta.name)
        routes = await self._child(object, Kind.CONFIG_MAP, naming.routes_name(object.meta.name))
        manifests = self._cluster.list(Kind.POD, namespace, labels=labels)
        pods = [observed_deployment.pod(manifest) async for manifest in manifests]
        pods = await asyncio.gather(*(self._with_state(pod) for pod in pods))
        base_ref = Ref(Kind.CONFIG_MAP, namespace, naming.base_name(object.meta.name))
        base = await self._cluster.get(base_ref, metadata_only=True)
        base_map = observed_deployment.base_map(base) if base is not None else None
        return ObservedDeployment(
            workload=observed_deployment.workload(workload) if workload is not None else None,
            service=observed_deployment.child(service) if service is not None else None,
            routes=observed_deployment.routes_map(routes) if routes is not None else None,
            pods=tuple(pods),
            finetunes=await self._finetunes(object),
            base=base_map,
            card=await self._card(pods, base_map.digest if base_map is not None else None),
            checks=await self._checks(object),
        )

    async def _child(self, object: DeploymentObject, kind: Kind, name: str) -> Manifest | None:
        return await self._cluster.get(Ref(kind, object.meta.namespace, name))

    async def _with_state(self, pod: ServingPod) -> ServingPod:
        """The pod with its switchboard's state, where it answers."""
        if pod.ip is None:
            return pod
        body = await self._poller.read(pod.ip, SWITCHBOARD_PORT, "/state", MAX_STATE_BYTES)
        try:
            state = SwitchboardState.model_validate_json(body) if body is not None else None
        except ValidationError:
            state = None
        return observed_deployment.with_state(pod, state)

    async def _card(self, pods: Sequence[ServingPod], known: str | None) -> str | None:
        """The description of the base model from a pod that serves it, where it is not known yet."""
        digest = observed_deployment.served_base(pods)
        if digest is None or digest == known:
            return None
        for pod in pods:
            if pod.ip is None or pod.state is None or pod.state.base_digest != digest:
                continue
            body = await self._poller.read(pod.ip, SWITCHBOARD_PORT, CARD_PATH, MAX_CARD_BYTES)
            if body is not None:
                return body.decode("ascii", errors="replace")
        return None

    async def _checks(self, object: DeploymentObject) -> tuple[Check, ...]:
        """The Jobs that check adapters, with their pods where there are any."""
        namespace, labels = object.meta.namespace, f"{naming.CHECK_LABEL}={object.meta.name}"
        jobs = [item async for item in self._cluster.list(Kind.JOB, namespace, labels=labels)]
        if not jobs:
            return ()
        return observed_deployment.checks(
            jobs, [item async for item in self._cluster.list(Kind.POD, namespace, labels=labels)]
        )

    async def _finetunes(self, object: DeploymentObject) -> dict[str, FineTuneObject]:
        """The fine-tunes that the routes name, those that exist, and those that the selector matches."""
        namespace = object.meta.namespace
        names = finetune_names(object)
        found = await asyncio.gather(*(self._cluster.get(Ref(Kind.FINE_TUNE, namespace, name)) for name in names))
        manifests = [manifest for manifest in found if manifest is not None]
        selector = object.spec.adapter_selector if object.spec is not None else None
        if selector is not None:
            selected = self._cluster.list(Kind.FINE_TUNE, namespace, labels=selector.text() or None)
            manifests += [manifest async for manifest in selected]
        return {item.meta.name: item for item in (observed.finetune(manifest) for manifest in manifests)}


def finetune_names(object: DeploymentObject) -> tuple[str, ...]:
    """The fine-tunes that the routes name."""
    if object.spec is None:
        return ()
    return tuple(sorted({route.finetune_ref.name for route in object.spec.adapters if route.finetune_ref is not None}))
