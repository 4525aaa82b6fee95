"""The plans: which fault strikes at which point of which flow, each under an id that stays (`flow/fault/point`).

A point is the n-th write of a kind by the operator, or the n-th watch event of a kind that it is sent, as a clean run
shows them. Nothing is broken here; `proxy` and `play` do that.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What can go wrong."""

    KILL = "kill"
    CONFLICT = "conflict"
    THROTTLED = "throttled"
    ERROR = "error"
    TIMEOUT_BEFORE = "timeout-before"
    TIMEOUT_AFTER = "timeout-after"
    RESET_BEFORE = "reset-before"
    RESET_AFTER = "reset-after"
    FROZEN = "frozen"
    DROP = "drop"
    REPEAT = "repeat"
    DELAY = "delay"
    GONE = "gone"
    TRUNCATED = "truncated"
    PAUSE = "pause"
    JUMP_FORWARD = "jump-forward"
    JUMP_BACK = "jump-back"
    OUTAGE = "outage"
    LONG_OUTAGE = "long-outage"


MEANING = {
    Fault.KILL: "SIGKILL of the operator after the write, and a new process",
    Fault.CONFLICT: "the write is answered with 409 and does nothing",
    Fault.THROTTLED: "the write is answered with 429 and Retry-After",
    Fault.ERROR: "the write is answered with 500 and does nothing",
    Fault.TIMEOUT_BEFORE: "the write is answered with 504 and does nothing",
    Fault.TIMEOUT_AFTER: "the write takes effect and is answered with 504",
    Fault.RESET_BEFORE: "the connection is reset before the write",
    Fault.RESET_AFTER: "the write takes effect, and the connection is reset before its answer",
    Fault.FROZEN: "from the write on, 3 s of reads and watches that show the world before it",
    Fault.DROP: "the watch event never comes",
    Fault.REPEAT: "the watch event comes twice",
    Fault.DELAY: "the watch event, and all after it on its stream, come 2 s late",
    Fault.GONE: "instead of the event the watch is closed with 410 Gone",
    Fault.TRUNCATED: "the connection breaks in the middle of the event's line",
    Fault.PAUSE: "SIGSTOP of the leader after the write, another replica takes over, SIGCONT",
    Fault.JUMP_FORWARD: "the operator's wall clock jumps an hour forward after the write",
    Fault.JUMP_BACK: "the operator's wall clock jumps an hour back after the write",
    Fault.OUTAGE: "from the write on, 75 s without an API server",
    Fault.LONG_OUTAGE: "from the write on, 15 min without an API server",
}

AT_WRITES = (
    Fault.KILL,
    Fault.CONFLICT,
    Fault.THROTTLED,
    Fault.ERROR,
    Fault.TIMEOUT_BEFORE,
    Fault.TIMEOUT_AFTER,
    Fault.RESET_BEFORE,
    Fault.RESET_AFTER,
    Fault.FROZEN,
)
AT_EVENTS = (Fault.DROP, Fault.REPEAT, Fault.DELAY, Fault.GONE, Fault.TRUNCATED)
ONCE_A_FLOW = (Fault.PAUSE, Fault.JUMP_FORWARD, Fault.JUMP_BACK, Fault.OUTAGE, Fault.LONG_OUTAGE)
"""Faults that last: each strikes a flow at one write, the one that creates its first workload."""


SINGLES_TO_A_PAIR = 10


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault at one point."""

    fault: Fault
    point: str

    def __str__(self) -> str:
        return f"{self.fault}/{self.point}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow and what strikes it: nothing, one fault, or two in any order."""

    flow: str
    strikes: tuple[Strike, ...] = ()

    @property
    def id(self) -> str:
        """The name by which it is reported and played again."""
        return "/".join((self.flow, "+".join(str(strike) for strike in self.strikes) or "clean"))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What goes wrong."""
        return tuple(strike.fault for strike in self.strikes)


def parse(text: str) -> Plan:
    """The plan of an id.

    Raises:
        ValueError: it is no id of a plan.
    """
    flow, _, rest = text.partition("/")
    if not rest or rest == "clean":
        return Plan(flow)
    strikes = []
    for part in rest.split("+"):
        fault, _, point = part.partition("/")
        if not point:
            raise ValueError(f"plan {text}: {part} is no fault/point; ids are flow/fault/point")
        strikes.append(Strike(Fault(fault), point))
    return Plan(flow, tuple(strikes))


def singles(flow: str, writes: Sequence[str], events: Sequence[str]) -> Iterator[Plan]:
    """Every single fault at every point of a flow's clean run."""
    for point in writes:
        for fault in AT_WRITES:
            yield Plan(flow, (Strike(fault, point),))
    for point in events:
        for fault in AT_EVENTS:
            yield Plan(flow, (Strike(fault, point),))
    for fault in ONCE_A_FLOW:
        yield Plan(flow, (Strike(fault, lasting_point(writes)),))


def lasting_point(writes: Sequence[str]) -> str:
    """The write at which faults that last begin: the first workload, or the middle of the flow."""
    workloads = [point for point in writes if point.startswith(("post-jobs", "post-deployments"))]
    return workloads[0] if workloads else writes[len(writes) // 2]


def pairs(plans: Iterable[Plan], count: int, seed: int = 1) -> list[Plan]:
    """A sample of pairs of single faults of the same flow, always the same for a seed."""
    short = [plan for plan in plans if not set(plan.faults) & set(ONCE_A_FLOW)]
    by_flow = {flow: list(group) for flow, group in itertools.groupby(short, key=lambda plan: plan.flow)}
    chance = random.Random(seed)
    found: list[Plan] = []
    while len(found) < count and by_flow:
        first, second = chance.sample(by_flow[chance.choice(sorted(by_flow))], 2)
        if first.strikes[0].point != second.strikes[0].point:
            found.append(Plan(first.flow, (*first.strikes, *second.strikes)))
    return found


def spread(plans: Iterable[Plan], seed: int = 1) -> list[Plan]:
    """All plans in an order of which every beginning is a fair sample, always the same for a seed.

    Every fault strikes every flow once before any does so again, and neighbours differ in both.
    """
    groups: dict[tuple[Fault, str], list[Plan]] = {}
    for plan in plans:
        groups.setdefault((plan.faults[0], plan.flow), []).append(plan)
    chance = random.Random(seed)
    for _, group in sorted(groups.items()):
        group.sort(key=lambda plan: plan.id)  # one clean run's points come in another order than the next one's
        chance.shuffle(group)
    faults, flows = list(Fault), sorted({flow for _, flow in groups})
    places = [
        (fault, flows[(number + turn) % len(flows)])
        for turn in range(len(flows))
        for number, fault in enumerate(faults)
    ]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*(groups.get(place, ()) for place in places)))
    return [plan for plan in rounds if plan is not None]


def mixed(singles: Sequence[Plan], pairs: Sequence[Plan]) -> list[Plan]:
    """Single faults in their order, and a pair after every tenth of them as long as there are any."""
    found: list[Plan] = []
    rest = iter(pairs)
    for number, plan in enumerate(singles, 1):
        found.append(plan)
        if number % SINGLES_TO_A_PAIR == 0:
            found += itertools.islice(rest, 1)
    return [*found, *rest]


def sample(plans: Iterable[Plan], count: int, seed: int = 1) -> list[Plan]:
    """The first of the plans as `spread`, without those of a quarter of an hour."""
    return spread((plan for plan in plans if Fault.LONG_OUTAGE not in plan.faults), seed)[:count]
