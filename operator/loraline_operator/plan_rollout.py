"""The next routing table: how each route moves from the version that it serves to the one that it should serve.

Pure, one step at a time; a step is taken only when the pods report that the one before is done:

    versions [old]       serving old
    versions [old, new]  serving old    pods download, load and prove new
    versions [old, new]  serving new    every pod that counts has proved it; pods switch
    versions [new]       serving new    every such pod serves it; pods drain old, unload it, remove its files

A pod that rejects the new version takes the route back to versions [old].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loraline_api.conditions import Reason
from loraline_api.deployment import RouteStatus
from loraline_api.routing import Route, RouteVersion, RoutingTable, VersionPhase, VersionState
from loraline_operator.observed_deployment import ServingPod
from loraline_operator.plan_targets import Target


@dataclass(frozen=True, slots=True)
class Step:
    """The next state of a route in the table and in the status."""

    route: Route
    status: RouteStatus
    reason: Reason
    needs_person: bool = False
    """Whether only a person's change mends it."""

    @property
    def is_moving(self) -> bool:
        """Whether a version is on its way into the pods."""
        return self.status.target is not None or self.reason is Reason.PODS_NOT_READY

    @property
    def is_well(self) -> bool:
        """Whether it answers as it should: with the wanted version, or with one while the next is not there yet."""
        waits_served = self.reason is Reason.WAITING_FOR_ADAPTER and self.route.serving is not None
        return self.reason is Reason.SERVING or waits_served


def steps(
    wanted: Sequence[Target],
    table: RoutingTable,
    told: Sequence[RouteStatus],
    pods: Sequence[ServingPod],
    *,
    remembers_rejections: bool,
    is_updating: bool,
) -> list[Step]:
    """The next step of each route.

    Args:
        table: the table that the pods work towards.
        told: the routes of the last status; it remembers rejected versions.
        remembers_rejections: False gives every rejected version another try.
        is_updating: pods are being replaced, so that a refusal may come from one with the server's earlier settings.
    """
    routes = {route.name: route for route in table.routes}
    statuses = {status.name: status for status in told}
    judges = counting(pods, table.digest)
    result = []
    for target in wanted:
        before = statuses.get(target.name, RouteStatus(name=target.name))
        if not remembers_rejections:
            before = before.model_copy(update={"rejected": None})
        result.append(_step(target, routes.get(target.name) or Route(name=target.name), before, judges, is_updating))
    return result


def counting(pods: Sequence[ServingPod], digest: str) -> list[ServingPod]:
    """The pods whose word counts: ready ones, or, when none is ready, those whose server is up.

    Without the second kind, a deployment whose served adapter is lost could never move on to a better one. Nothing
    counts while a ready pod has not seen the table.
    """
    alive = [pod for pod in pods if not pod.is_deleting]
    ready = [pod for pod in alive if pod.is_ready]
    judges = ready or [pod for pod in alive if pod.state is not None and pod.state.engine_healthy]
    if any(pod.state is None or pod.state.table_digest != digest for pod in judges):
        return []
    return judges


def _step(target: Target, route: Route, before: RouteStatus, judges: Sequence[ServingPod], is_updating: bool) -> Step:
    served = next((item for item in route.versions if item.version == route.serving), None)
    if target.version is None:
        return _without_target(target, route, served, before)
    if served is not None and served.version == target.version.version:
        return _arriving(route, target.version, before, judges)
    if before.rejected == target.version.version:
        return _kept(route, served, before, Reason(before.reason), before.message)
    return _rolling(route, target.version, served, before, judges, is_updating=is_updating)


def _without_target(target: Target, route: Route, served: RouteVersion | None, before: RouteStatus) -> Step:
    """No version can be named: the route keeps what it serves."""
    status = _status(before, served, target.reason, f"{target.message}{_keeps(served)}")
    is_stuck = target.is_final and (served is None or target.reason is not Reason.WAITING_FOR_ADAPTER)
    return Step(_route(route.name, served, waiting_for=target.message), status, target.reason, needs_person=is_stuck)


def _arriving(route: Route, wanted: RouteVersion, before: RouteStatus, judges: Sequence[ServingPod]) -> Step:
    """The table serves the wanted version: other versions go when every pod that counts has switched."""
    have_switched = bool(judges) and all(_serves(pod, route.name, wanted.version) for pod in judges)
    if have_switched:
        message = f"version {wanted.version} answers"
        return Step(_route(route.name, wanted), _status(before, wanted, Reason.SERVING, message), Reason.SERVING)
    if before.version == wanted.version:
        message = f"version {wanted.version} is being loaded by the pods"
        return Step(route, _status(before, wanted, Reason.PODS_NOT_READY, message), Reason.PODS_NOT_READY)
    message = f"the pods switch to version {wanted.version}"
    old = _version(before.version, before.uri)
    status = _status(before, old, Reason.ROLLING_OUT, message, target=wanted)
    return Step(route, status, Reason.ROLLING_OUT)


def _rolling(
    route: Route,
    wanted: RouteVersion,
    served: RouteVersion | None,
    before: RouteStatus,
    judges: Sequence[ServingPod],
    *,
    is_updating: bool,
) -> Step:
    """The wanted version is brought into the pods, and answers as soon as every pod that counts has proved it."""
    if wanted not in route.versions:
        message = f"version {wanted.version} is being loaded by the pods"
        return Step(
            _route(route.name, served, wanted),
            _status(before, served, Reason.ROLLING_OUT, message, target=wanted),
            Reason.ROLLING_OUT,
        )
    states = [(pod, _state(pod, route.name, wanted.version)) for pod in judges]
    for pod, state in states:
        if state is not None and state.phase is VersionPhase.REJECTED and not is_updating:
            refused = before.model_copy(update={"rejected": wanted.version})
            reason = state.reason or Reason.ADAPTER_REJECTED
            message = f"pod {pod.name} refused version {wanted.version}: {state.message}{_keeps(served)}"
            return _kept(route, served, refused, reason, message)
    if states and all(state is not None and state.phase is VersionPhase.PROVED for _, state in states):
        message = f"the pods switch to version {wanted.version}"
        return Step(
            Route(name=route.name, serving=wanted.version, versions=route.versions),
            _status(before, served, Reason.ROLLING_OUT, message, target=wanted),
            Reason.ROLLING_OUT,
        )
    reason, message = _progress(wanted, states)
    status = _status(before, served, reason, message, target=wanted)
    return Step(_route(route.name, served, wanted), status, reason)


def _progress(wanted: RouteVersion, states: Sequence[tuple[ServingPod, VersionState | None]]) -> tuple[Reason, str]:
    """How far the pods are with a version: the first trouble, or how many have proved it."""
    for pod, state in states:
        if state is not None and state.phase is VersionPhase.RETRYING:
            return state.reason or Reason.ROLLING_OUT, f"pod {pod.name} tries again: {state.message}"
    if not states:
        return Reason.PODS_NOT_READY, f"version {wanted.version} waits for pods that can load it"
    return Reason.ROLLING_OUT, f"version {wanted.version} is being loaded by the pods"


def _kept(route: Route, served: RouteVersion | None, before: RouteStatus, reason: Reason, message: str) -> Step:
    """The wanted version was refused: it stays out until another one is wanted or the spec changes."""
    status = _status(before, served, reason, message).model_copy(update={"rejected": before.rejected})
    return Step(_route(route.name, served, waiting_for=message), status, reason, needs_person=True)


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


def _serves(pod: ServingPod, route: str, version: str) -> bool:
    return pod.state is not None and any(item.name == route and item.serving == version for item in pod.state.routes)


def _state(pod: ServingPod, route: str, version: str) -> VersionState | None:
    if pod.state is None:
        return None
    return next((item for item in pod.state.versions if item.route == route and item.version == version), None)
