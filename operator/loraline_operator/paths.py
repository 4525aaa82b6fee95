"""Both kinds' ways through a pass: which parser, observer and planner belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import (
    observe_deployment,
    observe_finetune,
    observed,
    plan_data,
    plan_deployment,
    plan_finetune,
    references,
)
from loraline_operator.actions import Kind, Manifest, Ref
from loraline_operator.children import Children
from loraline_operator.cluster import Cluster
from loraline_operator.complaints import Complaints
from loraline_operator.look import Depth
from loraline_operator.objects import Objects, version_of
from loraline_operator.observe_claims import ClaimsReader
from loraline_operator.observed import DeploymentObject, FineTuneObject
from loraline_operator.observed_deployment import ObservedDeployment
from loraline_operator.observed_finetune import ObservedFineTune
from loraline_operator.one_by_one import OneByOne
from loraline_operator.one_pass import KindPath, Path
from loraline_operator.policy_store import PolicyStore
from loraline_operator.poll import Poller
from loraline_operator.settings import Settings

WORDS = ("progress", "display", "phase", "conditions", "observed_generation")
"""What a fine-tune's status tells; the rest decides about runs."""


@dataclass(frozen=True, slots=True)
class World:
    """What passes see and write through."""

    cluster: Cluster
    poller: Poller
    policies: PolicyStore
    objects: Objects
    children: Children
    complaints: Complaints
    own: Callable[[Ref, int], None]
    """Told the version of each state, of an object or its child, that a pass over it has made and the copies have."""
    told: Callable[[Ref], None]
    """Called with an object whose status was written, for those that follow it."""
    refers: Callable[[Ref, Iterable[Ref]], None]
    """Called with an object and what it refers to."""

    def is_limited(self, namespace: str) -> bool:
        """Whether the policy in force limits the GPUs of a namespace."""
        return self.policies.current.of(namespace).limits.gpus is not None


def finetunes(world: World, settings: Settings) -> tuple[KindPath, observe_finetune.Observer]:
    """The way of fine-tunes, judged by the policy that is in force then, and what observes them."""
    claims = ClaimsReader(world.cluster, world.is_limited)
    observer = observe_finetune.Observer(
        world.cluster, world.poller, world.children, world.complaints, claims=claims, settings=settings
    )

    def wrote(owner: Ref, child: Ref, manifest: Manifest) -> None:
        world.children.wrote(child, manifest)
        world.own(owner, version_of(manifest))

    path: Path[LoraFineTuneSpec, LoraFineTuneStatus, ObservedFineTune] = Path(
        cluster=world.cluster,
        objects=world.objects,
        settings=settings,
        parse=observed.finetune,
        refers_to=_finetune_targets,
        least_depth=Depth.COPIES,
        observe=observer.observe,
        plan=lambda object, seen, settings, now: plan_finetune.plan(
            object, seen, settings, now, world.policies.current
        ),
        only_tells=_only_words,
        wrote=wrote,
        own=world.own,
        told=world.told,
        refers=world.refers,
        gone=observer.pace.leave,
    )
    return OneByOne(path, world.objects, world.is_limited), observer


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
        plan=lambda object, seen, settings, now: plan_deployment.plan(
            object, seen, settings, now, world.policies.current
        ),
        only_tells=lambda old, new: True,
        wrote=_forget,
        own=world.own,
        told=world.told,
        refers=world.refers,
        gone=lambda ref: None,
    )
    return path


def _only_words(old: LoraFineTuneStatus, new: LoraFineTuneStatus) -> bool:
    return new.model_copy(update={name: getattr(old, name) for name in WORDS}) == old


def _forget(owner: Ref, child: Ref, manifest: Manifest) -> None:
    """Children of AdapterDeployments are not kept."""


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
