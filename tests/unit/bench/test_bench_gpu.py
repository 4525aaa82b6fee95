"""The GPU bench without a GPU: which rows are run, what is kept, and what the tables say."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as program
from bench.gpu import results, rows, tokens
from bench.gpu.clock import Clock
from bench.gpu.results import Curves, Outcome
from bench.gpu.rows import Data, Row, Side

OURS = Row("ours", "table", Side.OURS, "auto")


def an_outcome(name: str, speed: int, **changes: Any) -> Outcome:
    row = replace(OURS, name=name, **changes)
    measured = {
        "tokens_per_s": speed,
        "s_per_step": [16384 / speed] * 3,
        "losses": [11.9, 11.8],
        "peak_allocated_gib": 20.5,
        "peak_reserved_gib": 22.0,
        "first_step_s": 17.2,
    }
    return Outcome(row, "ok", measured, 40.0)


def test_every_row_has_a_name_of_its_own_and_a_micro_batch_that_divides_its_batch() -> None:
    everything = rows.catalogue()
    assert len({row.name for row in everything}) == len(everything)
    assert all(row.micro is None or row.batch % row.micro == 0 for row in everything)
    assert all(row.micro is not None for row in everything if row.side not in (Side.OURS, Side.PEFT))


def test_a_row_survives_its_way_through_json() -> None:
    assert [rows.load(row.dump()) for row in rows.catalogue()] == list(rows.catalogue())


def test_groups_and_rows_are_chosen_in_the_order_of_importance() -> None:
    names = [row.name for row in rows.chosen(["optimizer", "ours-2048-lean"])]
    assert names[0] == "ours-2048-lean"
    assert len(names) == 4


def test_an_unknown_row_is_refused_with_the_groups_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--rows", "ours-4096"]) == 2
    assert capsys.readouterr().err == (
        "--rows names ours-4096, which is neither a row nor a group; the groups are "
        "ablation, curve, gpus, optimizer, shapes, table, and --list shows the rows\n"
    )


CHANGES = [
    pytest.param("steps=2", {"steps": 2}, id="a number"),
    pytest.param("micro=none", {"micro": None}, id="a number that may be missing"),
    pytest.param("budget_gib=24", {"budget_gib": 24.0}, id="a fraction"),
    pytest.param("data=short", {"data": Data.SHORT}, id="a choice"),
    pytest.param("switches=fold,kernels", {"switches": ("fold", "kernels")}, id="a list"),
    pytest.param("model=tiny", {"model": "tiny"}, id="a text"),
]


@pytest.mark.parametrize(("text", "fields"), CHANGES)
def test_fields_are_changed_from_the_command_line(text: str, fields: dict[str, Any]) -> None:
    name, _, value = text.partition("=")
    assert program.changed(OURS, [(name, value)]) == replace(OURS, **fields)


def test_a_field_that_no_row_has_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^--set names sequence, but a row has the fields name, group, side, policy,"):
        program.changed(OURS, [("sequence", "2048")])


@pytest.fixture
def options(tmp_path: Path) -> program.Options:
    return program.Options(
        models=tmp_path, out=tmp_path / "bench.json", sites={}, row_timeout_s=60, ends_at=float("inf"), fresh=False
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the rows that were run; those whose name begins with `bad` fail."""
    seen: list[str] = []

    def run_one(row: Row, options: program.Options, *, keep_bf16: bool) -> Outcome:
        seen.append(row.name)
        if row.name.startswith("bad"):
            return Outcome(row, "failed", {}, 3.0, "ImportError: no module")
        return replace(an_outcome(row.name, 10_000), row=row)

    monkeypatch.setattr(program, "run_one", run_one)
    return seen


def test_a_row_that_fails_is_told_and_the_others_go_on(options: program.Options, ran: list[str]) -> None:
    wanted = [replace(OURS, name=name) for name in ("first", "bad", "last")]
    outcomes = program.run_all(wanted, options)
    assert ran == ["first", "bad", "last"]
    assert [outcomes[name].status for name in ran] == ["ok", "failed", "ok"]
    assert "| bad | failed after 3 s |" in results.table(outcomes.values())


def test_what_was_measured_is_not_measured_again_and_what_failed_is(options: program.Options, ran: list[str]) -> None:
    wanted = [replace(OURS, name=name) for name in ("first", "bad")]
    program.run_all(wanted, options)
    program.run_all([*wanted, replace(OURS, name="first", steps=99)], options)
    assert ran == ["first", "bad", "bad", "first"]


def test_no_row_begins_that_would_go_on_beyond_the_budget(options: program.Options, ran: list[str]) -> None:
    assert program.run_all([OURS], replace(options, ends_at=0.0)) == {}
    assert ran == []


MODULES = [
    pytest.param(["timeit", "-n", "1", "-r", "1", "pass"], 20, "ok", id="a module that ends well"),
    pytest.param(["timeit", "1/0"], 20, "failed", id="one that fails"),
    pytest.param(["timeit", "import time; time.sleep(30)"], 0.3, "timed out", id="one that hangs"),
]


@pytest.mark.parametrize(("module", "timeout_s", "status"), MODULES)
def test_a_row_runs_in_a_process_that_may_fail_or_hang(
    module: list[str], timeout_s: float, status: str, tmp_path: Path
) -> None:
    assert program._run(module, None, timeout_s, tmp_path / "log") == status


def test_a_side_has_its_own_packages_before_all_others(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "whoami.py").write_text("print('of the side')")
    program._run(["whoami"], str(tmp_path / "site"), 20, tmp_path / "log")
    assert (tmp_path / "log").read_text() == "of the side\n"


def test_the_same_work_is_compared_by_the_best_of_each_side() -> None:
    table = results.comparison(
        [
            an_outcome("ours", 17_000),
            an_outcome("slow", 9_000, side=Side.UNSLOTH),
            an_outcome("fast", 15_000, side=Side.UNSLOTH, micro=8),
            an_outcome("trl", 8_000, side=Side.TRL),
            an_outcome("without", 20_000, switches=("fold",)),
            an_outcome("long", 5_000, seq=8192),
        ]
    )
    assert table.splitlines()[2:] == ["| llama-8b, fixed 2,048 | 17,000 | 15,000 |  | 8,000 | 1.13 |"]


def test_the_ablation_tells_what_each_part_gains() -> None:
    table = results.ablation(
        [an_outcome("ours-2048-auto", 17_000), an_outcome("w", 16_000, group="ablation", switches=("fold",))]
    )
    assert table.splitlines()[-1] == "| fold | 16,000 | +6.2 % |"


def test_a_curve_is_judged_by_how_far_seeds_are_from_each_other() -> None:
    def falling(offset: float) -> tuple[float, ...]:
        return tuple(3 - step / 100 + offset for step in range(100))

    peft = Curves((falling(-0.1), falling(0), falling(0.1)))
    ours = Curves((falling(-0.09), falling(0.01), falling(0.11)))
    assert results.distances(ours, peft) == pytest.approx((0.01, (0.1 + 0.1 + 0.2) / 3))


def test_results_are_kept_for_the_next_call(tmp_path: Path) -> None:
    kept = [an_outcome("one", 10_000), Outcome(replace(OURS, name="two"), "timed out", {}, 300.0, "...")]
    results.write(tmp_path / "deep" / "bench.json", kept)
    assert list(results.read(tmp_path / "deep" / "bench.json").values()) == kept


def test_everybody_gets_the_same_tokens() -> None:
    row = replace(OURS, seq=64)
    assert tokens.ids(row, 3, 1000) == tokens.ids(row, 3, 1000)
    assert [len(one) for one in tokens.ids(row, 3, 1000)] == [64, 64, 64]
    assert tokens.texts(5, 2048) == tokens.texts(5, 2048)


def test_the_learnable_tokens_can_be_learned() -> None:
    """The commonest successor of a token comes in seven of ten cases."""
    walks = tokens.ids(replace(OURS, data=Data.LEARNABLE, seq=512), 40, 20)
    after: dict[int, list[int]] = {}
    for walk in walks:
        for token, following in itertools.pairwise(walk):
            after.setdefault(token, []).append(following)
    hits = sum(max(found.count(one) for one in set(found)) for found in after.values())
    assert 0.68 < hits / sum(len(found) for found in after.values()) < 0.85


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_clock_leaves_the_warm_up_out(warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr("bench.gpu.clock.time.perf_counter", lambda: float(next(now) ** 2))
    clock = Clock(warmup)
    clock.begin()
    for _ in range(warmup + 3):
        clock.count(10, opens_step=True)
        clock.end_step()
    measured = clock.result()
    assert measured["s_per_step"] == [2 * step + 1 for step in range(warmup, warmup + 3)]
    assert measured["tokens"] == [10, 10, 10]
