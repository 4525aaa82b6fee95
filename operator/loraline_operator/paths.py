"""Both kinds' ways through a pass: which parser, observer and planner belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus
from loraline_api.finetune import LoraFineTuneSpec, LoraFineTuneStatus
from loraline_operator import (
    observe_deployment,
    observe_finetune,
    observed,
    plan_data,
    plan_deployment,
    plan_finetune,
)
from loraline_operator.actions import Kind, Manifest, Plan, Ref
from loraline_operator.children import Children
from loraline_operator.cluster import Cluster
from loraline_operator.complaints import Complaints
from loraline_operator.look import Depth
from loraline_operator.objects import Objects
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import ObservedDeployment
from loraline_operator.observed_finetune import ObservedFineTune
from loraline_operator.one_pass import KindPath, Path
from loraline_operator.poll import Poller
from loraline_operator.settings import Settings

PROGRESS = ("progress", "display")
WORDS = (*PROGRESS, "phase", "conditions", "observed_generation")
"""What a fine-tune's status tells; the rest decides about runs."""


@dataclass(frozen=True, slots=True)
class World:
    """What passes see and write through."""

    cluster: Cluster
    poller: Poller
    objects: Objects
    children: Children
    complaints: Complaints
    told: Callable[[Ref], None]
    """Called with an object whose status has changed in what others follow."""
    refers: Callable[[Ref, Iterable[Ref]], None]
    """Called with an object and what it refers to."""


def finetunes(world: World, settings: Settings) -> tuple[KindPath, observe_finetune.Observer]:
    """The way of fine-tunes, and what observes them."""
    observer = observe_finetune.Observer(world.cluster, world.poller, world.children, world.complaints, settings)

    def plan(
        object: FineTuneObject, seen: ObservedFineTune, settings: Settings, now: datetime
    ) -> Plan[LoraFineTuneStatus]:
        return plan_finetune.plan(object, seen, replace(settings, progress_interval_s=observer.pace.interval_s), now)

    path: Path[LoraFineTuneSpec, LoraFineTuneStatus, ObservedFineTune] = Path(
        cluster=world.cluster,
        objects=world.objects,
        settings=settings,
        parse=observed.finetune,
        refers_to=_data_of,
        least_depth=Depth.COPIES,
        observe=observer.observe,
        plan=plan,
        with_conflict=lambda seen, name: replace(seen, conflict=name),
        only_tells=lambda old, new: _differ_only(old, new, WORDS),
        only_progress=lambda old, new: _differ_only(old, new, PROGRESS),
        wrote=world.children.wrote,
        told=world.told,
        refers=world.refers,
    )
    return path, observer


def deployments(world: World, settings: Settings) -> KindPath:
    """The way of AdapterDeployments: few, and each pass reads all."""
    observer = observe_deployment.Observer(world.cluster, world.poller)

    async def observe(object: DeploymentObject, _: Depth, __: ObservedDeployment | None) -> ObservedDeployment:
        return await observer.observe(object)

    path: Path[AdapterDeploymentSpec, AdapterDeploymentStatus, ObservedDeployment] = Path(
        cluster=world.cluster,
        objects=world.objects,
        settings=settings,
        parse=observed.deployment,
        refers_to=_finetunes_of,
        least_depth=Depth.SURE,
        observe=observe,
        plan=plan_deployment.plan,
        with_conflict=lambda seen, name: replace(seen, conflict=name),
        only_tells=lambda old, new: True,
        only_progress=lambda old, new: False,
        wrote=_forget,
        told=world.told,
        refers=world.refers,
    )
    return path


def _differ_only(old: LoraFineTuneStatus, new: LoraFineTuneStatus, names: tuple[str, ...]) -> bool:
    """Whether two statuses are the same but for these parts."""
    return new.model_copy(update={name: getattr(old, name) for name in names}) == old


def _forget(ref: Ref, manifest: Manifest) -> None:
    """Children of AdapterDeployments are not kept."""


def _data_of(finetune: FineTuneObject) -> Iterable[Ref]:
    """The ConfigMaps with its data."""
    places = plan_data.sources(finetune.spec).values() if finetune.spec is not None else ()
    return [Ref(Kind.CONFIG_MAP, finetune.meta.namespace, place.host) for place in places]


def _finetunes_of(deployment: DeploymentObject) -> Iterable[Ref]:
    """The fine-tunes of its routes."""
    names = observe_deployment.finetune_names(deployment)
    return [Ref(Kind.FINE_TUNE, deployment.meta.namespace, name) for name in names]
