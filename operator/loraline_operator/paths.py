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
from loraline_operator.observe_claims import ClaimsReader
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import ObservedDeployment
from loraline_operator.observed_finetune import ObservedFineTune
from loraline_operator.one_by_one import OneByOne
from loraline_operator.one_pass import KindPath, Path
from loraline_operator.policy_store import PolicyStore
from loraline_operator.poll import Poller
from loraline_operator.settings import Settings


def paths(cluster: Cluster, poller: Poller, settings: Settings, policies: PolicyStore) -> Mapping[Kind, KindPath]:
    """The way of each of our kinds, judged by the policy that is in force then."""

    def is_limited(namespace: str) -> bool:
        return policies.current.of(namespace).limits.gpus is not None

    finetunes: Path[LoraFineTuneSpec, LoraFineTuneStatus, ObservedFineTune] = Path(
        cluster=cluster,
        settings=settings,
        parse=observed.finetune,
        refers_to=_finetune_targets,
        observe=observe_finetune.Observer(cluster, poller, ClaimsReader(cluster, is_limited)).observe,
        plan=lambda object, seen, settings, now: plan_finetune.plan(object, seen, settings, now, policies.current),
        with_conflict=lambda seen, name: replace(seen, conflict=name),
    )
    deployments: Path[AdapterDeploymentSpec, AdapterDeploymentStatus, ObservedDeployment] = Path(
        cluster=cluster,
        settings=settings,
        parse=observed.deployment,
        refers_to=_finetunes_of,
        observe=observe_deployment.Observer(cluster, poller).observe,
        plan=lambda object, seen, settings, now: plan_deployment.plan(object, seen, settings, now, policies.current),
        with_conflict=lambda seen, name: replace(seen, conflict=name),
    )
    return {Kind.FINE_TUNE: OneByOne(finetunes, cluster, is_limited), Kind.ADAPTER_DEPLOYMENT: deployments}


def _finetune_targets(finetune: FineTuneObject) -> Iterable[Ref]:
    """The ConfigMaps with its data, and what holds the GPUs that it waits for."""
    namespace = finetune.meta.namespace
    places = plan_data.sources(finetune.spec).values() if finetune.spec is not None else ()
    targets = [Ref(Kind.CONFIG_MAP, namespace, place.host) for place in places]
    waiting = finetune.status.waiting
    if waiting is not None:
        targets += [Ref(Kind.JOB, namespace, job) for job in waiting.jobs]
        targets += [Ref(Kind.FINE_TUNE, namespace, waiting.behind)] if waiting.behind is not None else []
    return targets


def _finetunes_of(deployment: DeploymentObject) -> Iterable[Ref]:
    """The fine-tunes of its routes; with a selector all of the namespace, as each may come to match."""
    names = observe_deployment.finetune_names(deployment)
    if deployment.spec is not None and deployment.spec.adapter_selector is not None:
        names = (*names, references.ANY)
    return [Ref(Kind.FINE_TUNE, deployment.meta.namespace, name) for name in names]
