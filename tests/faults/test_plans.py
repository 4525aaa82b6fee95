"""The order and the ids of the plans, and when their results meet the goals."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from faults import plans, report
from faults.__main__ import main
from faults.chaos import Chaos
from faults.judge import Judgement
from faults.plans import AT_EVENTS, AT_WRITES, ONCE_A_FLOW, Plan
from faults.play import Result

FLOWS = ("first-run", "edit", "rollout")
WRITES = ("patch-lorafinetunes-1", "post-jobs-1", "put-lorafinetunes-status-1")
EVENTS = ("jobs-added-1", "pods-modified-1")
KINDS = len(FLOWS) * (len(AT_WRITES) + len(AT_EVENTS) + len(ONCE_A_FLOW))
FAILED = ["another end: Job a is not there"]


@pytest.fixture
def every() -> list[Plan]:
    """All single faults of three flows."""
    return [plan for flow in FLOWS for plan in plans.singles(flow, WRITES, EVENTS)]


def test_every_fault_strikes_every_flow_once_before_any_does_so_again(every: list[Plan]) -> None:
    spread = plans.spread(every)
    assert sorted(plan.id for plan in spread) == sorted(plan.id for plan in every)
    assert len({(plan.flow, plan.faults) for plan in spread[:KINDS]}) == KINDS
    neighbours = itertools.pairwise(spread[:KINDS])
    assert all(one.flow != other.flow and one.faults != other.faults for one, other in neighbours)


def test_a_sample_is_always_the_same_and_takes_no_quarter_of_an_hour(every: list[Plan]) -> None:
    sample = plans.sample(every, KINDS)
    assert sample == plans.sample(reversed(every), KINDS)
    assert not [plan for plan in sample if "long-outage" in plan.id]


def test_ids_name_plans(every: list[Plan]) -> None:
    chosen = [Plan("edit"), *every, *plans.pairs(every, 10)]
    assert [plans.parse(plan.id) for plan in chosen] == chosen


def test_a_pair_follows_every_tenth_single_fault_and_none_is_lost(every: list[Plan]) -> None:
    singles, pairs = plans.spread(every), plans.pairs(every, 20)
    mixed = plans.mixed(singles, pairs)
    assert sorted(plan.id for plan in mixed) == sorted(plan.id for plan in [*singles, *pairs])
    assert [plan for plan in mixed[:22] if len(plan.strikes) > 1] == pairs[:2]


def results(singles: int, pairs: int, *, failing_singles: int = 0, failing_pairs: int = 0) -> list[Result]:
    """So many results, of which so many failed."""
    single, pair = "edit/kill/post-jobs-1", "edit/kill/post-jobs-1+drop/jobs-added-1"
    return [
        *(Result(single, FAILED if number < failing_singles else []) for number in range(singles)),
        *(Result(pair, FAILED if number < failing_pairs else []) for number in range(pairs)),
    ]


@pytest.mark.parametrize(
    ("found", "chaos", "is_met"),
    [
        (results(10, 40), None, True),
        (results(10, 40, failing_singles=1), None, False),
        (results(10, 40, failing_pairs=2), None, True),
        (results(10, 40, failing_pairs=3), None, False),
        ([], Chaos(10, 1), True),
        ([], Chaos(10, 1, problems=["stuck"]), False),
    ],
    ids=["all is well", "a single fault", "5 % of the pairs", "more pairs", "clean chaos", "chaos with a problem"],
)
def test_all_single_faults_and_most_pairs_have_to_converge(
    found: list[Result], chaos: Chaos | None, is_met: bool
) -> None:
    assert report.meets_goals(found, None, chaos) is is_met


def test_the_report_holds_every_verdict_and_those_that_failed_first(tmp_path: Path) -> None:
    chaos = Chaos(10, 1, kills=3, operations={"created": 2}, ended={"Succeeded": 2})
    judged = Judgement(accepted=5, refused=4)
    report.write(tmp_path / "faults.json", results(2, 2, failing_pairs=1), judged, chaos)
    told = json.loads((tmp_path / "faults.json").read_text(encoding="utf-8"))
    assert (told["singles"], told["pairs"]) == ({"plans": 2, "converged": 2}, {"plans": 2, "converged": 1})
    assert [verdict["converged"] for verdict in told["verdicts"]] == [False, True, True, True]
    assert (told["chaos"]["operations"], told["manifests"]["accepted"]) == ({"created": 2}, 5)


def test_a_report_of_the_same_operator_leaves_what_did_not_converge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [Result("edit/kill/post-jobs-1", seconds=3.5, restarts=1), Result("edit/error/post-jobs-1", ["no end"])]
    file = tmp_path / "faults.json"
    assert report.converged(file) == []
    report.write(file, results)
    assert report.converged(file) == results[:1]
    monkeypatch.setattr(report, "operator_digest", lambda: "another")
    assert report.converged(file) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--plan", "first-run/kil/post-jobs-1"], "'first-run/kil/post-jobs-1' is no plan; write flow/fault/point"),
        (["--plan", "first-un/kill/post-jobs-1"], "with a flow of bad-version, delete, edit, first-run,"),
        (["--flow", "first-un"], "invalid choice: 'first-un' (choose from 'bad-version',"),
        (["--fault", "kil"], "invalid choice: 'kil' (choose from 'kill',"),
    ],
)
def test_a_slip_of_the_pen_is_told_with_what_there_is(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert words in capsys.readouterr().err
