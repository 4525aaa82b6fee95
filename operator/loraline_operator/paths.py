"""Both kinds' ways through a pass: which parser, observer and planner belong together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus
from loraline_api.finetune import LoraFineTuneSpec, LoraFineTuneStatus
from loraline_operator import (
    observe_deployment,
    observe_finetune,
    observed,
    plan_data,
    plan_deployment,
    plan_finetune,
    references,
)
from loraline_operator.actions import Kind, Ref
from loraline_operator.cluster import Cluster
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import ObservedDeployment
from loraline_operator.observed_finetune import ObservedFineTune
from loraline_operator.one_pass import KindPath, Path
from loraline_operator.poll import Poller
from loraline_operator.settings import Settings


def paths(cluster: Cluster, poller: Poller, settings: Settings) -> Mapping[Kind, KindPath]:
    """The way of each of our kinds."""
    finetunes: Path[LoraFineTuneSpec, LoraFineTuneStatus, ObservedFineTune] = Path(
        cluster=cluster,
        settings=settings,
        parse=observed.finetune,
        refers_to=_data_of,
        observe=observe_finetune.Observer(cluster, poller).observe,
        plan=plan_finetune.plan,
        with_conflict=lambda seen, name: replace(seen, conflict=name),
    )
    deployments: Path[AdapterDeploymentSpec, AdapterDeploymentStatus, ObservedDeployment] = Path(
        cluster=cluster,
        settings=settings,
        parse=observed.deployment,
        refers_to=_finetunes_of,
        observe=observe_deployment.Observer(cluster, poller).observe,
        plan=plan_deployment.plan,
        with_conflict=lambda seen, name: replace(seen, conflict=name),
    )
    return {Kind.FINE_TUNE: finetunes, Kind.ADAPTER_DEPLOYMENT: deployments}


def _data_of(finetune: FineTuneObject) -> Iterable[Ref]:
    """The ConfigMaps with its data."""
    places = plan_data.sources(finetune.spec).values() if finetune.spec is not None else ()
    return [Ref(Kind.CONFIG_MAP, finetune.meta.namespace, place.host) for place in places]


def _finetunes_of(deployment: DeploymentObject) -> Iterable[Ref]:
    """The fine-tunes of its routes; with a selector all of the namespace, as each may come to match."""
    names = observe_deployment.finetune_names(deployment)
    if deployment.spec is not None and deployment.spec.adapter_selector is not None:
        names = (*names, references.ANY)
    return [Ref(Kind.FINE_TUNE, deployment.meta.namespace, name) for name in names]
