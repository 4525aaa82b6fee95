"""The next routing table: how each route moves from the version that it serves to the one that it should serve.

Pure, one step at a time; a step is taken only when the pods report that the one before is done:

    versions [old]       serving old    new is checked by a Job, and waits for its slot
    versions [old, new]  serving old    pods download, load and prove new
    versions [old, new]  serving new    every pod that counts has proved it; pods switch
    versions [new]       serving new    every such pod serves it; pods drain old, unload it, remove its files

A pod that rejects the new version takes the route back to versions [old]. Only ready pods are waited for: one that is
not ready gets no requests, and has to catch up with the table before it does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from loraline_api.conditions import Reason
from loraline_api.deployment import RouteStatus, Server
from loraline_api.routing import SWITCHBOARD_PORT, Route, RouteVersion, RoutingTable, VersionPhase, VersionState
from loraline_operator import plan_slots
from loraline_operator.observed_deployment import ServingPod
from loraline_operator.plan_preflight import Checks
from loraline_operator.plan_slots import Slots
from loraline_operator.plan_targets import Target

ON_ITS_WAY = frozenset({Reason.ROLLING_OUT, Reason.PODS_NOT_READY, Reason.WAITING_FOR_ADAPTER})
"""Reasons of a route that need nobody's attention."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next state of a route in the table and in the status."""

    route: Route
    status: RouteStatus
    reason: Reason
    needs_person: bool = False
    """Whether only a person's change mends it."""
    is_selected: bool = False
    """Whether spec.adapterSelector made the route."""

    @property
    def is_moving(self) -> bool:
        """Whether a version is on its way into the pods."""
        return not self.needs_person and (self.status.target is not None or self.reason is Reason.PODS_NOT_READY)

    @property
    def is_troubled(self) -> bool:
        """Whether something beyond waiting keeps it from being as it should."""
        return self.needs_person or not (self.is_well or self.reason in ON_ITS_WAY)

    @property
    def is_well(self) -> bool:
        """Whether it answers as it should: with the wanted version, or with one while the next is not there yet."""
        waits_served = self.reason is Reason.WAITING_FOR_ADAPTER and self.route.serving is not None
        return self.reason is Reason.SERVING or waits_served


@dataclass(frozen=True, slots=True)
class Judges:
    """The pods whose word counts."""

    pods: tuple[ServingPod, ...] = ()
    lack: str = ""
    """Why there are none, as the end of a sentence."""
    is_updating: bool = False
    """Pods are being replaced, so that a refusal may come from one with the server's earlier settings."""
    held: Mapping[tuple[str, str, str], VersionState] = field(default_factory=dict)
    """Versions by pod, route and version."""
    serving: Collection[tuple[str, str, str | None]] = frozenset()
    """Pod, route and version of what is answered with."""

    def states(self, route: str, version: str) -> list[tuple[ServingPod, VersionState | None]]:
        """What each pod tells of a version."""
        return [(pod, self.held.get((pod.name, route, version))) for pod in self.pods]

    def have_switched(self, route: str, version: str) -> bool:
        """Whether every pod answers with a version."""
        return bool(self.pods) and all((pod.name, route, version) in self.serving for pod in self.pods)


@dataclass(frozen=True, slots=True)
class Place:
    """A route as it is in the table that the pods work towards, and as it was told last."""

    route: Route
    before: RouteStatus

    @property
    def served(self) -> RouteVersion | None:
        """The version that answers."""
        return next((item for item in self.route.versions if item.version == self.route.serving), None)


@dataclass(frozen=True, slots=True)
class Around:
    """What the next step of any route depends on."""

    judges: Judges
    checks: Checks
    slots: Slots


def places(
    wanted: Sequence[Target], table: RoutingTable, told: Sequence[RouteStatus], *, remembers_rejections: bool
) -> list[tuple[Target, Place]]:
    """Each target with its route as it is.

    Args:
        told: the routes of the last status; it remembers rejected versions.
        remembers_rejections: False gives every rejected version another try.
    """
    routes = {route.name: route for route in table.routes}
    statuses = {status.name: status for status in told}
    result = []
    for target in wanted:
        before = statuses.get(target.name, RouteStatus(name=target.name))
        if not remembers_rejections:
            before = before.model_copy(update={"rejected": None})
        result.append((target, Place(routes.get(target.name) or Route(name=target.name), before)))
    return result


def steps(pairs: Sequence[tuple[Target, Place]], judges: Judges, checks: Checks, server: Server) -> list[Step]:
    """The next step of each route."""
    troubled = {place.route.name for _, place in pairs if _is_troubled(place.route, judges)}
    slots = plan_slots.count(server, [place.route for _, place in pairs], troubled)
    result = []
    for target, place in pairs:
        step = _step(target, place, Around(judges, checks, slots))
        begins = target.version not in place.route.versions and target.version in step.route.versions
        if begins:
            slots = slots.taken_by(place.route)
        if target.is_selected:
            marked = step.status.model_copy(update={"selected": True})
            step = replace(step, status=marked, is_selected=True)
        result.append(step)
    return result


def needed(pairs: Sequence[tuple[Target, Place]]) -> list[RouteVersion]:
    """The versions that have to be checked before pods may load them, each once."""
    found: dict[tuple[str, str], RouteVersion] = {}
    for target, place in pairs:
        version, route = target.version, place.route
        if version is None or version in route.versions or version.version in (route.serving, place.before.rejected):
            continue
        found.setdefault((version.version, version.uri), version)
    return list(found.values())


def counting(
    pods: Sequence[ServingPod], digest: str, *, odd: Collection[str] = (), is_updating: bool = False
) -> Judges:
    """The pods whose word counts: ready ones, or, when none is ready, those whose server is up.

    Without the second kind, a deployment whose served adapter is lost could never move on to a better one. Nothing
    counts while a ready pod has not seen the table: it would go on answering by the one before.

    Args:
        odd: names of pods that are not believed.
    """
    alive = [pod for pod in pods if not pod.is_deleting and pod.name not in odd]
    ready = [pod for pod in alive if pod.is_ready]
    judges = ready or [pod for pod in alive if pod.state is not None and pod.state.engine_healthy]
    if not judges:
        return Judges(lack="waits for pods that can load it", is_updating=is_updating)
    for pod in judges:
        if pod.state is None:
            lack = (
                f"waits for pod {pod.name}, which is ready but does not answer the operator on port {SWITCHBOARD_PORT}"
            )
            return Judges(lack=lack, is_updating=is_updating)
        if pod.state.table_digest != digest:
            return Judges(lack="is being loaded by the pods", is_updating=is_updating)
    states = [(pod.name, pod.state) for pod in judges if pod.state is not None]
    held = {(name, item.route, item.version): item for name, state in states for item in state.versions}
    serving = {(name, item.name, item.serving) for name, state in states for item in state.routes}
    return Judges(tuple(judges), is_updating=is_updating, held=held, serving=serving)


def _step(target: Target, place: Place, around: Around) -> Step:
    served = place.served
    if target.version is None:
        return _without_target(target, place)
    if served is not None and served.version == target.version.version:
        return _arriving(place, target.version, around.judges)
    if place.before.rejected == target.version.version:
        return _kept(place, Reason(place.before.reason), place.before.message, target.version)
    if target.version not in place.route.versions:
        return _beginning(place, target.version, around)
    return _rolling(place, target.version, around.judges)


def _beginning(place: Place, wanted: RouteVersion, around: Around) -> Step:
    """A version that no pod has seen: it has to pass its check and to find a free slot."""
    finding, before = around.checks.of(wanted), place.before
    if finding.is_refused and finding.reason is Reason.BASE_MODEL_MISMATCH and around.judges.is_updating:
        message = f"version {wanted.version} is checked again when the pods are replaced: {finding.message}"
        return _waiting(place, wanted, Reason.ROLLING_OUT, message)
    if finding.is_refused:
        message = f"version {wanted.version} was refused: {finding.message}{_keeps(place.served)}"
        return _kept(place, finding.reason, message, wanted)
    if not finding.has_passed:
        reason, message = finding.reason, f"version {wanted.version} {finding.message}"
        if finding.is_open and before.target == wanted.version and before.reason not in ("", *ON_ITS_WAY):
            reason, message = Reason(before.reason), before.message  # the next try goes on: it is told as before
        return _waiting(place, wanted, reason, message)
    wait = around.slots.why_not(place.route)
    if wait is None:
        message = f"version {wanted.version} is being loaded by the pods"
        status = _status(before, place.served, Reason.ROLLING_OUT, message, target=wanted)
        return Step(_route(place.route.name, place.served, wanted), status, Reason.ROLLING_OUT)
    message = f"version {wanted.version} waits for {wait.message}{_keeps(place.served) if wait.is_final else ''}"
    return _waiting(place, wanted, wait.reason, message, needs_person=wait.is_final)


def _waiting(place: Place, wanted: RouteVersion, reason: Reason, message: str, *, needs_person: bool = False) -> Step:
    """The pods stay as they are; a version on its way that was overtaken leaves them."""
    status = _status(place.before, place.served, reason, message, target=wanted)
    stays = _route(place.route.name, place.served, waiting_for=f"version {wanted.version} is on its way")
    return Step(stays, status, reason, needs_person=needs_person)


def _without_target(target: Target, place: Place) -> Step:
    """No version can be named: the route keeps what it serves."""
    served = place.served
    status = _status(place.before, served, target.reason, f"{target.message}{_keeps(served)}")
    is_stuck = target.is_final and (served is None or target.reason is not Reason.WAITING_FOR_ADAPTER)
    stays = _route(place.route.name, served, waiting_for=target.message)
    return Step(stays, status, target.reason, needs_person=is_stuck)


def _arriving(place: Place, wanted: RouteVersion, judges: Judges) -> Step:
    """The table serves the wanted version: other versions go when every pod that counts has switched."""
    name, before = place.route.name, place.before
    if judges.have_switched(name, wanted.version):
        message = f"version {wanted.version} answers"
        return Step(_route(name, wanted), _status(before, wanted, Reason.SERVING, message), Reason.SERVING)
    if before.version == wanted.version:
        message = f"version {wanted.version} is being loaded by the pods"
        return Step(place.route, _status(before, wanted, Reason.PODS_NOT_READY, message), Reason.PODS_NOT_READY)
    message = f"the pods switch to version {wanted.version}"
    old = _version(before.version, before.uri)
    status = _status(before, old, Reason.ROLLING_OUT, message, target=wanted)
    return Step(place.route, status, Reason.ROLLING_OUT)


def _rolling(place: Place, wanted: RouteVersion, judges: Judges) -> Step:
    """The wanted version is brought into the pods, and answers as soon as every pod that counts has proved it."""
    route, served = place.route, place.served
    states = judges.states(route.name, wanted.version)
    for pod, state in states:
        if state is not None and state.phase is VersionPhase.REJECTED and not judges.is_updating:
            reason = state.reason or Reason.ADAPTER_REJECTED
            message = f"pod {pod.name} refused version {wanted.version}: {state.message}{_keeps(served)}"
            return _kept(place, reason, message, wanted)
    if states and all(state is not None and state.phase is VersionPhase.PROVED for _, state in states):
        message = f"the pods switch to version {wanted.version}"
        return Step(
            Route(name=route.name, serving=wanted.version, versions=route.versions),
            _status(place.before, served, Reason.ROLLING_OUT, message, target=wanted),
            Reason.ROLLING_OUT,
        )
    reason, message = _progress(wanted, states, judges.lack)
    status = _status(place.before, served, reason, message, target=wanted)
    return Step(_route(route.name, served, wanted), status, reason)


def _is_troubled(route: Route, judges: Judges) -> bool:
    """Whether a version on its way makes no headway in a pod: others need not wait for its turn to end."""
    others = [item.version for item in route.versions if item.version != route.serving]
    states = [state for version in others for _, state in judges.states(route.name, version)]
    return any(state is not None and state.phase is VersionPhase.RETRYING for state in states)


def _progress(
    wanted: RouteVersion, states: Sequence[tuple[ServingPod, VersionState | None]], lack: str
) -> tuple[Reason, str]:
    """How far the pods are with a version: the first trouble, or how many have proved it."""
    for pod, state in states:
        if state is not None and state.phase is VersionPhase.RETRYING:
            return state.reason or Reason.ROLLING_OUT, f"pod {pod.name} tries again: {state.message}"
    if not states:
        return Reason.PODS_NOT_READY, f"version {wanted.version} {lack}"
    return Reason.ROLLING_OUT, f"version {wanted.version} is being loaded by the pods"


def _kept(place: Place, reason: Reason, message: str, refused: RouteVersion) -> Step:
    """The version was refused: it stays out until another one is wanted or the spec changes."""
    told = _status(place.before, place.served, reason, message).model_copy(update={"rejected": refused.version})
    stays = _route(place.route.name, place.served, waiting_for=message)
    return Step(stays, told, reason, needs_person=True)


def _keeps(served: RouteVersion | None) -> str:
    return f"; version {served.version} keeps answering" if served else ""


# A route's waiting_for is part of the table: it holds only what stays the same while pods work, or they would have to
# adopt a new table for each change of the words.
def _route(name: str, served: RouteVersion | None, *others: RouteVersion, waiting_for: str = "") -> Route:
    versions = [item for item in (served, *others) if item is not None]
    return Route(
        name=name,
        serving=served.version if served else None,
        versions=versions,
        waiting_for="" if served else waiting_for[:512],
    )


def _status(
    before: RouteStatus,
    answers: RouteVersion | None,
    reason: Reason,
    message: str,
    *,
    target: RouteVersion | None = None,
) -> RouteStatus:
    return RouteStatus(
        name=before.name,
        version=answers.version if answers else None,
        uri=answers.uri if answers else None,
        target=target.version if target else None,
        target_uri=target.uri if target else None,
        reason=reason,
        message=message[:1200],
    )


def _version(version: str | None, uri: str | None) -> RouteVersion | None:
    return RouteVersion(version=version, uri=uri) if version and uri else None
