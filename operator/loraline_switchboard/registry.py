"""What this pod holds and how it routes: versions with their phases and requests in flight, and the serving version of
each route. Memory only; the worker does the work and the router asks it.

All methods are synchronous, so that on one event loop a route switches between two requests and never inside one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from loraline_api.conditions import Reason
from loraline_api.probe import ProbeAnswer
from loraline_api.routing import Route, RouteState, SwitchboardState, VersionPhase, VersionState
from loraline_switchboard.table import ReadTable

BASE = "base"
"""What stands for a version in the answers of the base model."""


@dataclass(slots=True, eq=False)
class Held:
    """A version of a route in this pod."""

    route: str
    version: str
    uri: str
    phase: VersionPhase = VersionPhase.WAITING
    is_wanted: bool = True
    is_checked: bool = False  # its files are here, verified and judged
    reason: Reason | None = None
    message: str = ""
    root: str | None = None
    answer: ProbeAnswer | None = None
    proved_at: datetime | None = None
    checked_at: datetime | None = None
    doubts: int = 0  # proofs in a row that did not hold
    check_due: float = 0.0  # when the proof is to be made again, by the worker's clock
    in_flight: int = 0
    failures: int = 0
    retry_at: float = 0.0

    @property
    def name(self) -> str:
        """The name under which vLLM knows it."""
        return f"{self.route}@{self.version}"

    @property
    def is_proved(self) -> bool:
        """Whether it answers requests."""
        return self.phase is VersionPhase.PROVED

    def state(self) -> VersionState:
        """What /state says of it."""
        is_leaving = not self.is_wanted and self.phase is VersionPhase.PROVED
        return VersionState(
            route=self.route,
            version=self.version,
            phase=VersionPhase.DRAINING if is_leaving else self.phase,
            reason=self.reason,
            message=self.message,
            root=self.root,
            fingerprint=self.answer.fingerprint if self.answer is not None else None,
            answer=self.answer,
            in_flight=self.in_flight,
            proved_at=self.proved_at,
            checked_at=self.checked_at,
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: vLLM's model name, and the version whose requests it counts among."""

    model: str
    version: str
    held: Held | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request goes nowhere."""

    status: int
    message: str


@dataclass(slots=True)
class Registry:
    """The state of one pod."""

    base_name: str
    base_digest: str | None = None
    pod: str = ""
    desired: ReadTable | None = None
    problem: str = "the routing table has not been read yet"
    held: dict[tuple[str, str], Held] = field(default_factory=dict)
    serving: dict[str, str] = field(default_factory=dict)
    engine_healthy: bool = False
    engine_problem: str = "vLLM has not answered yet"
    base_answer: ProbeAnswer | None = None
    engine_sick: str = ""  # why vLLM has to be started again, though it runs
    engine_generation: int = 0
    base_in_flight: int = 0
    last_token: float = 0.0  # when vLLM last gave a part of an answer, by time.monotonic()
    last_request: float = 0.0  # when one last began or ended, by time.monotonic()
    drains: int = 0  # requests of /drain that wait
    is_stopping: bool = False

    @property
    def routes(self) -> list[Route]:
        """The routes of the table."""
        return self.desired.table.routes if self.desired else []

    @property
    def in_flight(self) -> int:
        """Requests that are being answered."""
        return self.base_in_flight + sum(held.in_flight for held in self.held.values())

    @property
    def is_leaving(self) -> bool:
        """Whether callers must find another pod for their next request: this one is about to end."""
        return self.is_stopping or self.drains > 0

    def adopt(self, desired: ReadTable) -> None:
        """Takes a new table as the goal: new versions wait to be brought up, others are no longer wanted."""
        self.desired, self.problem = desired, ""
        wanted = {(route.name, item.version): item.uri for route in self.routes for item in route.versions}
        for key, uri in wanted.items():
            held = self.held.setdefault(key, Held(*key, uri))
            held.is_wanted = True
            if held.uri != uri:
                held.uri, held.retry_at = uri, 0.0
        for key, held in self.held.items():
            held.is_wanted = key in wanted
        self.settle()

    def settle(self) -> None:
        """Points each route at the version that the table names, as soon as it is proved here, and not before."""
        names = {route.name for route in self.routes}
        self.serving = {name: version for name, version in self.serving.items() if name in names}
        for route in self.routes:
            target = self.held.get((route.name, route.serving)) if route.serving else None
            if target is not None and target.is_proved:
                self.serving[route.name] = target.version
                continue
            current = self.held.get((route.name, self.serving.get(route.name, "")))
            if current is None or not current.is_proved or route.serving is None:
                self.serving.pop(route.name, None)

    def engine_lost(self, problem: str) -> None:
        """Forgets all that vLLM held: it is down, or it was started again and knows nothing."""
        if self.base_answer is not None:
            self.engine_generation += 1
        self.engine_healthy, self.engine_problem, self.base_answer = False, problem, None
        for held in self.held.values():
            if held.phase in (VersionPhase.PROVED, VersionPhase.LOADING, VersionPhase.DRAINING):
                held.phase, held.message, held.root, held.answer = VersionPhase.WAITING, problem, None, None
        self.settle()

    def unwanted(self) -> list[Held]:
        """Versions that can go: not in the table, not answered with, and no request in flight."""
        return [
            held
            for held in self.held.values()
            if not held.is_wanted and held.in_flight == 0 and self.serving.get(held.route) != held.version
        ]

    def resolve(self, model: str) -> Target | Refusal:
        """Where requests for a model go: the base model, a route, or one version of a route by `<route>@<version>`."""
        if self.base_answer is None:
            return Refusal(503, f"this pod does not serve yet: {self.engine_problem}")
        if model == self.base_name:
            return Target(model, BASE, None)
        route, _, version = model.partition("@")
        held = self.held.get((route, version or self.serving.get(route, "")))
        if held is not None and held.is_proved:
            return Target(held.name, held.version, held)
        return self._refusal(model, route, version)

    @contextmanager
    def counted(self, target: Target) -> Iterator[None]:
        """Counts a request as in flight for as long as the block runs."""
        if target.held is None:
            self.base_in_flight += 1
        else:
            target.held.in_flight += 1
        self.last_request = time.monotonic()
        try:
            yield
        finally:
            self.last_request = time.monotonic()
            if target.held is None:
                self.base_in_flight -= 1
            else:
                target.held.in_flight -= 1

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Counts a /drain that waits for as long as the block runs. It changes nothing about where requests go."""
        self.drains += 1
        try:
            yield
        finally:
            self.drains -= 1

    def models(self) -> list[str]:
        """The names that callers can use."""
        return [self.base_name, *sorted(self.serving)]

    def why_not_ready(self) -> str:
        """What a pod lacks to serve all that its routes need; empty when it is ready."""
        if self.is_stopping:
            return "the switchboard is stopping"
        if self.desired is None:
            return self.problem
        if self.base_answer is None:
            return self.engine_problem
        if self.pod in (self.desired.table.distrusted or ()):
            return "the other replicas answer the probe otherwise; delete this pod to have another one made"
        for route in self.routes:
            if route.serving is None or self.serving.get(route.name) == route.serving:
                continue
            held = self.held.get((route.name, route.serving))
            detail = f"{held.phase}{f' ({held.message})' if held.message else ''}" if held else "not listed for pods"
            return f"route {route.name} needs version {route.serving}, which is {detail}"
        return ""

    def state(self) -> SwitchboardState:
        """What /state says."""
        message = self.why_not_ready()
        return SwitchboardState(
            table_digest=self.desired.digest if self.desired else None,
            ready=not message,
            message=message[:1200],
            engine_healthy=self.engine_healthy,
            base_digest=self.base_digest,
            versions=[self.held[key].state() for key in sorted(self.held)],
            routes=[RouteState(name=route.name, serving=self.serving.get(route.name)) for route in self.routes],
        )

    def _refusal(self, model: str, name: str, version: str) -> Refusal:
        served = ", ".join(f"`{served}`" for served in self.models())
        route = next((route for route in self.routes if route.name == name), None)
        if route is None:
            return Refusal(404, f"model `{model}` is not served here; it serves: {served}")
        if version:
            return Refusal(404, f"route `{name}` does not hold version `{version}` here; it serves: {served}")
        if route.serving is None:
            wait = route.waiting_for or "its first version is being rolled out"
            return Refusal(404, f"route `{name}` has no version yet: {wait}; served now: {served}")
        return Refusal(503, f"this pod does not serve route `{name}` yet: {self.why_not_ready()}")
