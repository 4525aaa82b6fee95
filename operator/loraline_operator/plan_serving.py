"""The status of an AdapterDeployment in words: routes, pods, conditions, the printed column, and events for the news.

What is done about it is decided in `plan_deployment` and `plan_rollout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from loraline_api import conditions as api_conditions
from loraline_api.conditions import Conditions, ConditionStatus, ConditionType, Reason
from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus, PodStatus, PodVersion
from loraline_api.routing import RoutingTable, VersionPhase, VersionState
from loraline_operator import naming
from loraline_operator.actions import Event
from loraline_operator.observed import DeploymentObject
from loraline_operator.observed_deployment import ServingPod, Workload
from loraline_operator.plan_rollout import Step
from loraline_operator.plan_selection import Selection

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

MAX_PODS = 32
MAX_POD_VERSIONS = 64
MAX_TOLD_VERSIONS = 512
"""Versions in status.pods, over all pods: about 60 kB."""

LOADED_PHASES = frozenset({VersionPhase.PROVED, VersionPhase.DRAINING})
MAX_DISPLAYED_ROUTES = 3
MAX_DISPLAY_CHARS = 256

REFUSALS = frozenset(
    {
        Reason.ADAPTER_REJECTED,
        Reason.ADAPTER_INVALID,
        Reason.BASE_MODEL_MISMATCH,
        Reason.RANK_EXCEEDS_SERVER,
        Reason.DIGEST_MISMATCH,
        Reason.LOAD_REJECTED,
        Reason.PROBE_FAILED,
    }
)
"""Reasons that speak of an adapter that does not fit."""

Verdict = tuple[ConditionStatus, Reason, str]


@dataclass(frozen=True, slots=True)
class View:
    """All that the status speaks of."""

    object: DeploymentObject
    spec: AdapterDeploymentSpec
    steps: tuple[Step, ...]
    workload: Workload | None
    pods: tuple[ServingPod, ...]
    table: RoutingTable
    selection: Selection
    odd: Mapping[str, str]
    """Why a pod is not believed, by its name."""

    @property
    def own_steps(self) -> list[Step]:
        """Routes that the spec itself names: Ready, Degraded and Stalled speak of these."""
        return [step for step in self.steps if not step.is_selected]

    @property
    def live_pods(self) -> list[ServingPod]:
        """Pods that nobody deletes, by name."""
        return sorted((pod for pod in self.pods if not pod.is_deleting), key=lambda pod: pod.name)

    @property
    def ready_pods(self) -> list[ServingPod]:
        """Pods that get requests."""
        return [pod for pod in self.live_pods if pod.is_ready]

    @property
    def lagging_pods(self) -> list[ServingPod]:
        """Pods whose switchboard works towards another table."""
        return [pod for pod in self.live_pods if pod.state is not None and pod.state.table_digest != self.table.digest]

    @property
    def is_updating(self) -> bool:
        """Whether pods of an older template are being replaced, or surplus ones removed."""
        return self.workload is None or self.workload.is_updating(self.spec.replicas)

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to wait for in the pods."""
        return not self.is_updating and len(self.ready_pods) >= self.spec.replicas


def status(view: View, now: datetime) -> AdapterDeploymentStatus:
    """The whole status."""
    old, meta = view.object.status, view.object.meta
    routes = [step.status for step in view.steps]
    verdicts = _verdicts(view)
    stalled = next((step for step in view.own_steps if step.needs_person), None)
    ready, progressing = verdicts[ConditionType.READY], verdicts[ConditionType.PROGRESSING]
    is_reconciling = stalled is None and (ready[0] is not TRUE or progressing[0] is TRUE)
    while_true = {
        ConditionType.RECONCILING: progressing if progressing[0] is TRUE else ready,
        ConditionType.STALLED: ready,
    }
    holding = {ConditionType.RECONCILING: is_reconciling, ConditionType.STALLED: stalled is not None}
    conditions = _conditions(old, verdicts, view.object, now)
    for kind, (_, reason, message) in while_true.items():
        conditions = _while_true(conditions, kind, (TRUE, reason, message) if holding[kind] else None, view.object, now)
    selected = _selected(view) if view.spec.adapter_selector is not None else None
    conditions = _while_true(conditions, ConditionType.SELECTED, selected, view.object, now)
    versions = {route.name: route.version for route in routes}
    has_news = versions != {route.name: route.version for route in old.routes}
    return AdapterDeploymentStatus(
        observed_generation=meta.generation,
        phase=_phase(view, ready, progressing),
        conditions=list(conditions),
        replicas=len(view.live_pods),
        ready_replicas=len(view.ready_pods),
        selector=f"{naming.DEPLOYMENT_LABEL}={meta.name}",
        endpoint=f"http://{meta.name}.{meta.namespace}.svc",
        routes=routes,
        display=_display(view),
        pods=_pods(view),
        updated_at=now if has_news else old.updated_at,
    )


def stalled(object: DeploymentObject, reason: Reason, message: str, now: datetime) -> AdapterDeploymentStatus:
    """The status of an object about which nothing is done: routes and pods stay as they were told last."""
    old = object.status
    verdict = (FALSE, reason, message[:2000])
    told = dict.fromkeys((ConditionType.READY, ConditionType.PROGRESSING), verdict)
    rest = {ConditionType.COMPATIBLE: UNKNOWN, ConditionType.LOADED: UNKNOWN, ConditionType.DEGRADED: TRUE}
    verdicts = told | {kind: (truth, reason, verdict[2]) for kind, truth in rest.items()}
    conditions = _conditions(old, verdicts, object, now)
    conditions = _while_true(conditions, ConditionType.RECONCILING, None, object, now)
    conditions = _while_true(conditions, ConditionType.STALLED, (TRUE, reason, verdict[2]), object, now)
    changes = {
        "observed_generation": object.meta.generation,
        "phase": "Degraded",
        "conditions": list(conditions),
    }
    return old.model_copy(update=changes)


def events(old: AdapterDeploymentStatus, new: AdapterDeploymentStatus) -> tuple[Event, ...]:
    """Events for routes that changed their version or were refused one, and for a new trouble of the whole."""
    before = {route.name: route for route in old.routes}
    found = []
    for route in new.routes:
        known = before.get(route.name)
        if route.version is not None and (known is None or known.version != route.version):
            found.append(Event(Reason.SERVING, f"route {route.name} answers with version {route.version}"))
        if route.target is not None and (known is None or known.target != route.target):
            found.append(Event(Reason.ROLLING_OUT, f"route {route.name}: version {route.target} is being rolled out"))
        if route.rejected is not None and (known is None or known.rejected != route.rejected):
            found.append(Event(route.reason, f"route {route.name}: {route.message}"[:1000], is_warning=True))
    left_out = api_conditions.find(tuple(new.conditions), ConditionType.SELECTED)
    if left_out is not None and left_out.status is FALSE and left_out.reason != _reason(old, ConditionType.SELECTED):
        found.append(Event(left_out.reason, left_out.message[:1000], is_warning=True))
    reason, message = _stalled_by(new)
    if reason and reason != _stalled_by(old)[0] and not any(event.is_warning for event in found):
        found.append(Event(reason, message[:1000], is_warning=True))
    return tuple(found)


def _reason(status: AdapterDeploymentStatus, kind: ConditionType) -> str:
    condition = api_conditions.find(tuple(status.conditions), kind)
    return condition.reason if condition is not None else ""


def _stalled_by(status: AdapterDeploymentStatus) -> tuple[str, str]:
    condition = api_conditions.find(tuple(status.conditions), ConditionType.STALLED)
    return (condition.reason, condition.message) if condition is not None else ("", "")


def _verdicts(view: View) -> dict[ConditionType, Verdict]:
    return {
        ConditionType.READY: _ready(view),
        ConditionType.COMPATIBLE: _compatible(view),
        ConditionType.LOADED: _loaded(view),
        ConditionType.PROGRESSING: _progressing(view),
        ConditionType.DEGRADED: _degraded(view),
    }


def _ready(view: View) -> Verdict:
    trouble = next(_troubles(view), None)
    if trouble is not None:
        return FALSE, *trouble
    if view.spec.replicas == 0:
        return TRUE, Reason.SERVING, "spec.replicas is 0, so nothing answers"
    unserved = next((step for step in view.own_steps if step.route.serving is None), None)
    if unserved is not None:
        return FALSE, unserved.reason, f"route {unserved.route.name}: {unserved.status.message}"
    if len(view.ready_pods) < view.spec.replicas:
        return FALSE, Reason.PODS_NOT_READY, _pods_message(view)
    served = sum(1 for step in view.steps if step.route.serving is not None)
    routes = f"{served} route{'' if served == 1 else 's'}"
    return TRUE, Reason.SERVING, f"the base model and {routes} answer from {len(view.ready_pods)} ready pods"


def _compatible(view: View) -> Verdict:
    for step in view.own_steps:
        if step.reason in REFUSALS:
            return FALSE, step.reason, f"route {step.route.name}: {step.status.message}"
    for step in view.own_steps:
        if step.reason is not Reason.SERVING:
            return UNKNOWN, step.reason, f"route {step.route.name}: {step.status.message}"
    return TRUE, Reason.SERVING, "every adapter fits the base model and the server"


def _loaded(view: View) -> Verdict:
    wanted = {(route.name, route.serving) for route in view.table.routes if route.serving is not None}
    for pod in view.ready_pods:
        held = {(item.name, item.serving) for item in pod.state.routes} if pod.state is not None else set()
        for name, version in sorted(wanted - held):
            return FALSE, Reason.ROLLING_OUT, f"pod {pod.name} does not answer for {name} with version {version} yet"
    if not view.ready_pods:
        return FALSE, Reason.PODS_NOT_READY, _pods_message(view)
    message = "every ready pod answers with the versions that its routes name"
    if len(wanted) > view.spec.server.max_loras:
        message += (
            f"; {len(wanted)} routes share the {view.spec.server.max_loras} slots of spec.server.maxLoras, so requests "
            "may wait for one"
        )
    return TRUE, Reason.SERVING, message


def _selected(view: View) -> Verdict:
    """What became of the fine-tunes that the selector matches; the first trouble is told."""
    selection = view.selection
    troubles = [
        (step.reason, f"route {step.route.name}: {step.status.message}") for step in view.steps if _is_bad(step)
    ]
    troubles += [(item.reason, item.message) for item in selection.left_out]
    counts = (
        f"spec.adapterSelector matches {selection.matched} LoraFineTunes, {len(selection.routes)} of them are routes"
    )
    if selection.waiting:
        counts += f", {len(selection.waiting)} have no adapter yet"
    if not troubles:
        return TRUE, Reason.SERVING, counts
    reason, message = troubles[0]
    more = f" (and {len(troubles) - 1} more)" if len(troubles) > 1 else ""
    return FALSE, reason, f"{message}{more}; {counts}"[:2000]


def _is_bad(step: Step) -> bool:
    return step.is_selected and step.is_troubled


def _progressing(view: View) -> Verdict:
    if view.spec.replicas == 0 and not view.live_pods:
        return FALSE, Reason.SERVING, "spec.replicas is 0, so nothing is on its way"
    for step in view.steps:
        if step.is_moving:
            return TRUE, step.reason, f"route {step.route.name}: {step.status.message}"
    if view.is_updating:
        return TRUE, Reason.PODS_NOT_READY, _pods_message(view)
    return FALSE, Reason.SERVING, "no version and no pod is on its way"


def _degraded(view: View) -> Verdict:
    trouble = next(_troubles(view), None)
    if trouble is not None:
        return TRUE, *trouble
    return FALSE, Reason.SERVING, "nothing is amiss"


def _troubles(view: View) -> Iterator[tuple[Reason, str]]:
    """What keeps a route or a pod from being as it should be, beyond waiting; the first is told."""
    for step in view.own_steps:
        if step.is_troubled:
            yield step.reason, f"route {step.route.name}: {step.status.message}"
    if view.workload is not None and view.workload.problem:
        yield Reason.PODS_NOT_READY, f"Deployment {view.workload.name}: {view.workload.problem}"
    for message in view.odd.values():
        yield Reason.REPLICAS_DISAGREE, message
    for pod in view.live_pods:
        if pod.crash:
            yield Reason.PODS_NOT_READY, f"pod {pod.name}: {pod.crash}"
        elif pod.stuck is not None:
            yield pod.stuck.reason, f"pod {pod.name}: {pod.stuck.message}"


def _pods_message(view: View) -> str:
    """How many pods are ready, and what the first other one waits for."""
    counts = f"{len(view.ready_pods)} of {view.spec.replicas} pods are ready"
    waiting = next((pod for pod in view.live_pods if not pod.is_ready), None)
    if waiting is None:
        return counts
    why = waiting.state.message if waiting.state is not None else "its switchboard does not answer yet"
    return f"{counts}; pod {waiting.name}: {why or 'about to be'}"


def _phase(view: View, ready: Verdict, progressing: Verdict) -> str:
    if next(_troubles(view), None) is not None:
        return "Degraded"
    if ready[0] is TRUE:
        return "Progressing" if progressing[0] is TRUE else "Ready"
    return "Progressing" if view.live_pods else "Pending"


def _conditions(
    old: AdapterDeploymentStatus, verdicts: dict[ConditionType, Verdict], object: DeploymentObject, now: datetime
) -> Conditions:
    result: Conditions = tuple(old.conditions)
    for kind, (truth, reason, message) in verdicts.items():
        result = api_conditions.with_condition(
            result, kind, truth, reason, message, now=now, generation=object.meta.generation
        )
    return result


def _while_true(
    conditions: Conditions, kind: ConditionType, verdict: Verdict | None, object: DeploymentObject, now: datetime
) -> Conditions:
    """The conditions with one that is there only while it is true."""
    if verdict is None:
        return api_conditions.without_condition(conditions, kind)
    truth, reason, message = verdict
    return api_conditions.with_condition(
        conditions, kind, truth, reason, message, now=now, generation=object.meta.generation
    )


def _display(view: View) -> str:
    """The routes for kubectl get: each with its version, or how many serve where there are more than a line holds."""
    routes = [step.status for step in view.steps]
    if len(routes) <= MAX_DISPLAYED_ROUTES:
        return ", ".join(f"{route.name}={route.version or '-'}" for route in routes)[:MAX_DISPLAY_CHARS]
    moving = sum(1 for step in view.steps if step.is_moving)
    troubled = sum(1 for step in view.steps if step.is_troubled)
    counts = [f"{sum(1 for route in routes if route.version)} of {len(routes)} serve"]
    counts += [f"{number} {what}" for number, what in ((moving, "moving"), (troubled, "in trouble")) if number]
    return ", ".join(counts)


def _pods(view: View) -> list[PodStatus]:
    pods = view.live_pods[:MAX_PODS]
    room = min(MAX_POD_VERSIONS, MAX_TOLD_VERSIONS // max(1, len(pods)))
    return [_pod(pod, view.odd.get(pod.name, ""), room) for pod in pods]


def _pod(pod: ServingPod, distrust: str, room: int) -> PodStatus:
    states = pod.state.versions if pod.state is not None else []
    proved = [state for state in states if state.phase in LOADED_PHASES]
    others = [state for state in states if state.phase not in LOADED_PHASES]
    versions = [
        PodVersion(route=state.route, version=state.version, phase=_phase_of(state), fingerprint=state.fingerprint)
        for state in (*others, *proved)
    ]
    return PodStatus(
        name=pod.name,
        ready=pod.is_ready,
        problem=None if pod.is_ready and not distrust else (distrust or _problem(pod))[:600],
        held=len(states),
        proved=len(proved),
        versions=versions[:room],
    )


def _phase_of(state: VersionState) -> str:
    """Its phase; a download and a load are one to people, and no status write lies between them."""
    is_on_its_way = state.phase in (VersionPhase.WAITING, VersionPhase.DOWNLOADING, VersionPhase.LOADING)
    return "Loading" if is_on_its_way else str(state.phase)


def _problem(pod: ServingPod) -> str:
    """Why a pod gets no requests."""
    if pod.crash:
        return pod.crash
    if pod.stuck is not None:
        return pod.stuck.message
    return pod.state.message if pod.state is not None else "its switchboard does not answer yet"
