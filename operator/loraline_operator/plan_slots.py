"""Room for versions in the serving pods: whether one more may be loaded now.

vLLM's --max-loras is the number of adapters in one batch: a request for one more waits until a slot is free, nothing is
refused. Its --max-cpu-loras is the size of a cache: further adapters are read from disk in the middle of requests. So
the second limits what a pod holds, with one slot kept free so that every route can be rolled out; the first limits how
many routes are rolled out at once, as each of these is asked by two names. A single rollout always may begin.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from loraline_api.conditions import Reason
from loraline_api.deployment import Server
from loraline_api.routing import Route


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a version is not loaded yet."""

    reason: Reason
    message: str
    is_final: bool
    """Whether only a person's change makes room."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How full the pods are."""

    max_loras: int
    limit: int
    """Versions that a pod holds at most."""
    held: int
    """Versions that the table asks of each pod."""
    routes: int
    """Routes of the table that hold a version."""
    rolling: int
    """Routes that are being rolled out and make headway."""
    leaving: int
    """Versions that make room by themselves: the second ones of routes that are being rolled out."""

    def why_not(self, route: Route) -> Wait | None:
        """Why no further version of the route may be loaded now."""
        if len(route.versions) > 1 or (route.versions and route.serving is None):
            return None  # it takes the place of one that is on its way
        is_first = route.serving is None
        turns = max(1, self.max_loras - self.routes)
        if not is_first and self.rolling >= turns:
            at_once = "one route is" if turns == 1 else f"{turns} routes are"
            message = (
                f"its turn: {self.routes} routes share the {self.max_loras} slots of spec.server.maxLoras, so that "
                f"{at_once} rolled out at a time"
            )
            return Wait(Reason.ROLLING_OUT, message, is_final=False)
        if self.held + 1 <= self.limit - (1 if is_first else 0):
            return None
        kept = ", of which one is kept free for rollouts" if is_first else ""
        full = f"spec.server.maxCpuLoras is {self.limit}{kept}, and the pods hold {self.held} versions"
        if self.leaving:
            return Wait(Reason.ROLLING_OUT, f"its turn: {full}", is_final=False)
        return Wait(Reason.NO_FREE_SLOT, f"a slot: {full}; raise it, or remove a route", is_final=True)

    def taken_by(self, route: Route) -> Slots:
        """The slots after a further version of the route was let in."""
        if len(route.versions) > 1 or (route.versions and route.serving is None):
            return self
        if route.serving is None:
            return replace(self, held=self.held + 1, routes=self.routes + 1)
        return replace(self, held=self.held + 1, rolling=self.rolling + 1, leaving=self.leaving + 1)


def count(server: Server, routes: Sequence[Route], troubled: Collection[str]) -> Slots:
    """The slots as the table takes them.

    Args:
        routes: those of the table that stay.
        troubled: names of routes whose version on its way makes no headway: they hold up nobody's turn.
    """
    rolling = [route for route in routes if route.serving is not None and len(route.versions) > 1]
    return Slots(
        max_loras=server.max_loras,
        limit=server.slots,
        held=sum(len(route.versions) for route in routes),
        routes=sum(1 for route in routes if route.versions),
        rolling=sum(1 for route in rolling if route.name not in troubled),
        leaving=len(rolling),
    )
