"""What to do about an AdapterDeployment: from the object and its children to actions, status and events.

Pure: reads no clock and no cluster. How a route moves is in `plan_rollout`, what the status says in `plan_serving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from loraline_api.conditions import Reason
from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_api.routing import TABLE_KEY, Route, RouteVersion, RoutingTable
from loraline_api.storage import S3Access
from loraline_operator import (
    manifests_engine,
    manifests_serving,
    naming,
    plan_cleanup,
    plan_policy,
    plan_preflight,
    plan_replicas,
    plan_rollout,
    plan_selection,
    plan_serving,
    plan_targets,
)
from loraline_operator.actions import Action, Create, Kind, Manifest, Patch, Plan, Ref
from loraline_operator.observed import DeploymentObject
from loraline_operator.observed_deployment import Child, ObservedDeployment, ServingPod, Workload
from loraline_operator.plan_rollout import Place, Step
from loraline_operator.plan_serving import View
from loraline_operator.plan_targets import Target
from loraline_operator.settings import Settings

ROLLOUT_INTERVAL_S = 1.0
"""Time between two looks at the pods while a version is on its way."""

WAITING_INTERVAL_S = 5.0
"""Time between two looks at pods that are not ready; their events come sooner."""

CONFLICT_INTERVAL_S = 15.0

NUDGE_INTERVAL_S = 5
"""Time after which a pod that has not seen the table is nudged again: the kubelet may have refreshed the file from a
cache that was older than the table."""


def plan(
    object: DeploymentObject,
    observed: ObservedDeployment,
    settings: Settings,
    now: datetime,
    policy: Policy = ALLOW_ALL,
) -> Plan[AdapterDeploymentStatus]:
    """The plan for an AdapterDeployment; applied to its own result it is empty. Its children go with it."""
    now = now.replace(microsecond=0)
    if object.meta.is_deleting:
        holds = naming.FINALIZER in object.meta.finalizers
        return Plan((plan_cleanup.remove_finalizer(object),) if holds else ())
    has_workload = observed.workload is not None
    problem = _problem(object, observed) or plan_policy.deployment_refused(object, policy, has_workload=has_workload)
    if problem is not None:
        reason, message = problem
        wait_s = CONFLICT_INTERVAL_S if reason in (Reason.NAME_CONFLICT, Reason.NOT_ADMITTED) else None
        status = plan_serving.stalled(object, reason, message, now)
        return Plan((), status, plan_serving.events(object.status, status), wait_s)
    assert object.spec is not None  # `_problem` names a spec that does not parse
    return _plan(object, object.spec, observed, settings, now)


def _plan(
    object: DeploymentObject,
    spec: AdapterDeploymentSpec,
    observed: ObservedDeployment,
    settings: Settings,
    now: datetime,
) -> Plan[AdapterDeploymentStatus]:
    current = _current_table(object, spec, observed)
    storage = plan_targets.storage(spec, observed.finetunes)
    assert not isinstance(storage, str)  # `_problem` names it
    workload_actions = _workload_actions(object, spec, observed.workload, storage, settings)
    is_updating = bool(workload_actions) or _is_updating(observed.workload, spec.replicas)
    selection = plan_selection.select(spec, observed.finetunes, {route.name for route in current.routes})
    pairs = plan_rollout.places(
        plan_targets.targets(spec, observed.finetunes, selection),
        current,
        object.status.routes,
        remembers_rejections=object.status.observed_generation == object.meta.generation,
    )
    needed = plan_rollout.needed(pairs)
    checks = plan_preflight.checks(object, spec, observed, needed, storage=storage, settings=settings, now=now)
    odd = plan_replicas.odd_ones(observed.pods)
    judges = plan_rollout.counting(observed.pods, current.digest, odd=odd, is_updating=is_updating)
    steps = plan_rollout.steps(pairs, judges, checks, spec.server)
    table = RoutingTable(
        max_lora_rank=spec.server.max_lora_rank,
        routes=[step.route for step in steps],
        distrusted=sorted(odd) or None,
    )
    forgets = _forgets_refusal(pairs, steps)
    actions = (
        *(() if forgets else _routes_actions(object, observed, table)),
        *_service_actions(object, observed),
        *workload_actions,
        *_nudges(object, observed, table, now),
        *checks.actions,
    )
    view = View(object, spec, tuple(steps), observed.workload, observed.pods, table, selection, odd)
    status = plan_serving.status(view, now)
    wait_s = ROLLOUT_INTERVAL_S if forgets else _requeue(view, actions)
    return Plan(actions, status, plan_serving.events(object.status, status), wait_s)


def _forgets_refusal(pairs: Sequence[tuple[Target, Place]], steps: Sequence[Step]) -> bool:
    """Whether the next table lacks a version whose refusal no status remembers yet.

    The status is written first: if it were lost, the version would be checked and loaded all over again.
    """
    held = {(place.route.name, item.version) for _, place in pairs for item in place.route.versions}
    told = {(place.route.name, place.before.rejected) for _, place in pairs}
    news = {(step.route.name, step.status.rejected) for step in steps if step.status.rejected is not None}
    return bool((news - told) & held)


def _is_updating(workload: Workload | None, replicas: int) -> bool:
    return workload is not None and workload.is_updating(replicas)


def _problem(object: DeploymentObject, observed: ObservedDeployment) -> tuple[Reason, str] | None:
    """Why nothing can be planned: then nothing is touched, and what is served goes on being served."""
    name = object.meta.name
    if object.spec is None:
        return Reason.INVALID_SPEC, f"{object.spec_problem}; mend the spec"
    if len(name) > naming.MAX_LABEL_CHARS or "." in name or not name[0].isalpha():
        return Reason.INVALID_SPEC, (
            f"metadata.name is {name}, which cannot name a Service: at most {naming.MAX_LABEL_CHARS} lower case "
            "letters, digits and hyphens, a letter first; create it under another name"
        )
    base_name = manifests_engine.base_name(object.spec)
    if any(route.name == base_name for route in object.spec.adapters):
        return Reason.INVALID_SPEC, (
            f"spec.adapters[{base_name}].name is also the model name of spec.baseModel.uri, "
            f"{object.spec.base_model.uri}; give the route another name"
        )
    kept_out = _kept_out(object, observed)
    if kept_out is not None:
        return kept_out
    storage = plan_targets.storage(object.spec, observed.finetunes)
    return (Reason.INVALID_SPEC, storage) if isinstance(storage, str) else None


def _kept_out(object: DeploymentObject, observed: ObservedDeployment) -> tuple[Reason, str] | None:
    """Why a child cannot be there."""
    conflict = _foreign(object, observed)
    if observed.conflict is not None:
        conflict = f"{observed.conflict} exists and belongs to something else"
    if conflict is not None:
        return Reason.NAME_CONFLICT, (f"{conflict}; delete it or create this object under another name")
    return observed.kept_out("deployment")


def _foreign(object: DeploymentObject, observed: ObservedDeployment) -> str | None:
    children: tuple[tuple[str, Child | None], ...] = (
        ("Deployment", observed.workload),
        ("Service", observed.service),
        ("ConfigMap", observed.routes),
        ("ConfigMap", observed.base),
    )
    for kind, child in children:
        if child is not None and child.owner_uid != object.meta.uid:
            return f"{kind} {child.name} exists and belongs to {child.owner or 'something else'}"
    return None


def _current_table(object: DeploymentObject, spec: AdapterDeploymentSpec, observed: ObservedDeployment) -> RoutingTable:
    """The table that the pods work towards; one that is lost is made again from what the status says is served."""
    if observed.routes is not None and observed.routes.table is not None:
        return observed.routes.table
    routes = [
        Route(name=told.name, serving=told.version, versions=[RouteVersion(version=told.version, uri=told.uri)])
        for told in object.status.routes
        if told.version is not None and told.uri is not None
    ]
    return RoutingTable(max_lora_rank=spec.server.max_lora_rank, routes=routes)


def _routes_actions(object: DeploymentObject, observed: ObservedDeployment, table: RoutingTable) -> tuple[Action, ...]:
    meta, child = object.meta, observed.routes
    ref = Ref(Kind.CONFIG_MAP, meta.namespace, naming.routes_name(meta.name))
    if child is None:
        return (Create(ref, manifests_serving.routes(meta, table)),)
    if child.text == table.encode():
        return ()
    return (Patch(ref, {"data": {TABLE_KEY: table.encode()}}, child.uid, child.resource_version),)


def _service_actions(object: DeploymentObject, observed: ObservedDeployment) -> tuple[Action, ...]:
    wanted = manifests_serving.service(object.meta)
    ref = Ref(Kind.SERVICE, object.meta.namespace, object.meta.name)
    if observed.service is None:
        return (Create(ref, wanted),)
    return _patched(ref, observed.service, wanted, wanted["spec"])


def _workload_actions(
    object: DeploymentObject,
    spec: AdapterDeploymentSpec,
    child: Workload | None,
    storage: S3Access | None,
    settings: Settings,
) -> tuple[Action, ...]:
    """The Deployment. While no fine-tune tells where adapters lie, none is created and none is changed."""
    if storage is None:
        return ()
    wanted = manifests_serving.deployment(object.meta, spec, storage, settings)
    ref = Ref(Kind.DEPLOYMENT, object.meta.namespace, object.meta.name)
    if child is None:
        return (Create(ref, wanted),)
    if child.written_hash == manifests_serving.written_hash(wanted) and child.replicas != spec.replicas:
        return (Patch(ref, {"spec": {"replicas": spec.replicas}}, child.uid, child.resource_version),)
    return _patched(ref, child, wanted, manifests_serving.spec_patch(child.manifest["spec"], wanted["spec"]))


def _patched(ref: Ref, child: Child, wanted: Manifest, spec_patch: Manifest) -> tuple[Action, ...]:
    """The patch that makes a child as wanted, if what was written last differs."""
    if child.written_hash == manifests_serving.written_hash(wanted):
        return ()
    patch: Manifest = {
        "metadata": {"labels": wanted["metadata"]["labels"], "annotations": wanted["metadata"]["annotations"]},
        "spec": spec_patch,
    }
    return (Patch(ref, patch, child.uid, child.resource_version),)


def _nudges(
    object: DeploymentObject, observed: ObservedDeployment, table: RoutingTable, now: datetime
) -> tuple[Action, ...]:
    """Annotations on pods that work towards another table: a changed pod makes its kubelet refresh its ConfigMaps."""
    if observed.routes is None or observed.routes.text != table.encode():
        return ()  # the table is being written: the next pass nudges
    second = int(now.timestamp())
    return tuple(
        Patch(
            Ref(Kind.POD, object.meta.namespace, pod.name),
            {"metadata": {"annotations": {naming.TABLE_ANNOTATION: f"{table.digest}.{second}"}}},
            pod.uid,
        )
        for pod in observed.pods
        if _needs_nudge(pod, table.digest, second)
    )


def _needs_nudge(pod: ServingPod, digest: str, second: int) -> bool:
    if pod.is_deleting or pod.state is None or pod.state.table_digest == digest:
        return False
    nudged, _, at = pod.table_annotation.partition(".")
    return nudged != digest or not at.isdigit() or second - int(at) >= NUDGE_INTERVAL_S


def _requeue(view: View, actions: tuple[Action, ...]) -> float | None:
    moving = [step for step in view.steps if step.is_moving]
    if actions or view.lagging_pods or any(not step.is_troubled for step in moving):
        return ROLLOUT_INTERVAL_S
    return WAITING_INTERVAL_S if moving or not view.is_complete else None
