"""Reads all that belongs to an AdapterDeployment: children, what its switchboards tell, the fine-tunes that it names.

What it means is decided in `plan_deployment`.
"""

from __future__ import annotations

import asyncio

from pydantic import ValidationError

from loraline_api.routing import SWITCHBOARD_PORT, SwitchboardState
from loraline_operator import naming, observed, observed_deployment
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import ObservedDeployment, ServingPod
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
        return ObservedDeployment(
            workload=observed_deployment.workload(workload) if workload is not None else None,
            service=observed_deployment.child(service) if service is not None else None,
            routes=observed_deployment.routes_map(routes) if routes is not None else None,
            pods=tuple(await asyncio.gather(*(self._with_state(pod) for pod in pods))),
            finetunes=await self._finetunes(object),
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

    async def _finetunes(self, object: DeploymentObject) -> dict[str, FineTuneObject]:
        """The fine-tunes that the routes name, those that exist."""
        found = {}
        for name in finetune_names(object):
            manifest = await self._cluster.get(Ref(Kind.FINE_TUNE, object.meta.namespace, name))
            if manifest is not None:
                found[name] = observed.finetune(manifest)
        return found


def finetune_names(object: DeploymentObject) -> tuple[str, ...]:
    """The fine-tunes that the routes name."""
    if object.spec is None:
        return ()
    return tuple(sorted({route.finetune_ref.name for route in object.spec.adapters if route.finetune_ref is not None}))
