"""The turns of running attempts: seldom enough each, few enough together, and none forgotten."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter

import pytest

from loraline_operator.actions import Kind, Ref
from loraline_operator.pace import Pace

INTERVAL_S, PER_S = 3.0, 4.0


def refs(count: int) -> list[Ref]:
    return [Ref(Kind.FINE_TUNE, "team", str(number)) for number in range(count)]


def looks(pace: Pace, attempts: list[Ref], start_s: float, end_s: float) -> list[tuple[float, Ref]]:
    """When each is looked at by passes that come at its turns, and at each resync."""
    passes = [(start_s, ref) for ref in attempts]
    passes += [(start_s + resync, ref) for ref in attempts for resync in range(300, int(end_s - start_s), 300)]
    heapq.heapify(passes)
    found = []
    while passes and passes[0][0] < end_s:
        now, ref = heapq.heappop(passes)
        if pace.is_due(ref, now):
            found.append((now, ref))
        wait_s = pace.wait_s(ref, now)
        assert wait_s is not None
        heapq.heappush(passes, (now + wait_s, ref))
    return found


def test_one_running_attempt_is_looked_at_at_once_and_then_once_an_interval() -> None:
    pace, (tickets,) = Pace(INTERVAL_S, PER_S), refs(1)
    assert [pace.is_due(tickets, now) for now in (0.0, 1.0, 3.0, 4.0)] == [True, False, True, False]


def test_a_new_one_beside_few_does_not_wait() -> None:
    pace, (first, second) = Pace(INTERVAL_S, PER_S), refs(2)
    assert pace.is_due(first, 0.0)
    assert pace.is_due(second, 0.1)


@pytest.mark.parametrize("count", [12, 100, 1000])
def test_no_second_has_more_looks_than_allowed_and_each_gets_its_share(count: int) -> None:
    pace = Pace(INTERVAL_S, PER_S)
    round_s = max(INTERVAL_S, count / PER_S)
    found = [(at, ref) for at, ref in looks(pace, refs(count), 0.0, 3 * round_s) if at > 0]
    assert max(Counter(int(at) for at, _ in found).values()) <= PER_S
    assert set(Counter(ref for _, ref in found).values()) <= {2, 3}
    assert {ref for _, ref in found} == set(refs(count))


def test_those_that_stay_when_most_have_ended_are_soon_looked_at_as_often_as_few_are() -> None:
    pace, attempts = Pace(INTERVAL_S, PER_S), refs(100)
    looks(pace, attempts, 0.0, 50.0)
    for ref in attempts[4:]:
        pace.leave(ref)
    found = looks(pace, attempts[:4], 50.0, 110.0)
    last = [at for at, ref in found if ref == attempts[0] and at > 80.0]
    assert [round(late - early, 1) for early, late in itertools.pairwise(last)] == [3.0] * (len(last) - 1)
    assert len(last) > 5


def test_one_that_comes_when_a_thousand_have_gone_finds_no_line() -> None:
    pace, (new, *gone) = Pace(INTERVAL_S, PER_S), refs(1001)
    looks(pace, gone, 0.0, 10.0)
    for ref in gone:
        pace.leave(ref)
    found = [at for at, _ in looks(pace, [new], 10.0, 20.0)]
    assert found[0] == 10.0
    assert max(late - early for early, late in itertools.pairwise([*found, 20.0])) <= INTERVAL_S + 2 / PER_S


def test_one_that_does_not_run_has_no_turn() -> None:
    pace, (tickets,) = Pace(INTERVAL_S, PER_S), refs(1)
    assert pace.wait_s(tickets, 0.0) is None
    pace.is_due(tickets, 0.0)
    pace.leave(tickets)
    assert pace.wait_s(tickets, 1.0) is None
