"""`python -m bench.gpu`: runs rows, each in its own process, and writes build/bench-gpu.json, a table and plots.

A row that fails is reported and the others go on. What was measured stays: a second call runs what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bench.gpu import clock, results, rows, shapes
from bench.gpu.results import Outcome, Status
from bench.gpu.rows import Row

MODEL_SECONDS = 25
"""Making an 8B model, quantizing and writing it, on one H200: 9 s, and 15 s of imports."""

LOG_LINES = 12
"""Lines of a failed row's log that are kept."""


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are run.

    Attributes:
        sites: folders of packages for a side of the table, or for `models`, that go before those of this Python.
        ends_at: monotonic time at which no row is begun that would go on beyond it.
    """

    models: Path
    out: Path
    sites: dict[str, str]
    row_timeout_s: float
    ends_at: float
    fresh: bool


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    top.add_argument("--rows", default="table", help="names of rows or groups, with commas between (default: table)")
    top.add_argument("--list", action="store_true", help="show the rows and their groups")
    top.add_argument("--models", type=Path, default=Path(tempfile.gettempdir()) / "loraline-bench-models")
    top.add_argument("--out", type=Path, default=Path("build/bench-gpu.json"))
    top.add_argument("--budget-s", type=float, default=float("inf"), help="begin no row that would go on beyond this")
    top.add_argument("--row-timeout-s", type=float, default=300, help="stop a row after this time")
    top.add_argument("--fresh", action="store_true", help="run rows again that were measured before")
    top.add_argument(
        "--rival-site",
        type=_site,
        action="append",
        default=[],
        metavar="SIDE=DIR[:DIR]",
        help="packages of one side (ours, peft, trl, liger, unsloth, models), before those of this Python",
    )
    top.add_argument(
        "--set",
        type=_change,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of every row, as in --set model=tiny --set steps=2",
    )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows; 0 when every one of them was measured."""
    given = parser().parse_args(arguments)
    if given.list:
        for row in rows.catalogue():
            print(f"{row.group:10} {row.name:28} {row.seconds:4d} s  {results.work_of(row)}")
        return 0
    try:
        wanted = [changed(row, given.set) for row in rows.chosen([name for name in given.rows.split(",") if name])]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    options = Options(
        models=given.models,
        out=given.out,
        sites=dict(given.rival_site),
        row_timeout_s=given.row_timeout_s,
        ends_at=time.monotonic() + given.budget_s,
        fresh=given.fresh,
    )
    outcomes = run_all(wanted, options)
    for part in results.report(outcomes.values()):
        print(f"\n{part}", flush=True)
    _draw(outcomes, given.out.parent)
    left = [row.name for row in wanted if not results.is_done(row, outcomes)]
    if left:
        print(f"\nnot measured: {', '.join(left)}")
    return 1 if left else 0


def run_all(wanted: Sequence[Row], options: Options) -> dict[str, Outcome]:
    """Runs what is not measured yet, one row after the other; all outcomes, earlier ones too."""
    outcomes = results.read(options.out)
    for row in wanted:
        if results.is_done(row, outcomes) and not options.fresh:
            continue
        if time.monotonic() + _expected_s(row, options.models) > options.ends_at:
            print(f"{row.name}: left out, it would take {_expected_s(row, options.models)} s", flush=True)
            continue
        outcome = run_one(row, options, keep_bf16=any(one.start == "bf16" for one in wanted))
        outcomes[row.name] = outcome
        results.write(options.out, outcomes.values())
        speed = f"{outcome.speed} tokens/s, {outcome.measured['peak_allocated_gib']} GiB" if outcome.speed else ""
        print(f"{row.name}: {outcome.status} {speed} ({outcome.seconds:.0f} s)\n{outcome.message}".rstrip(), flush=True)
    return outcomes


def run_one(row: Row, options: Options, *, keep_bf16: bool) -> Outcome:
    """One row in a process of its own, with the packages of its side."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        log, told = work / "log", work / "result.json"
        (work / "row.json").write_text(json.dumps(row.dump()))
        model = shapes.folder_of(options.models, row.model, row.layers, row.start)
        status: Status = "ok"
        if not (model / "config.json").exists():
            maker = [str(options.models), row.model, str(row.layers or 0), row.start, str(int(keep_bf16))]
            status = _run(["bench.gpu.shapes", *maker], options.sites.get("models"), options.row_timeout_s, log)
        if status == "ok":
            parts = [str(work / "row.json"), str(model), str(told)]
            launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={row.gpus}", "-m"]
            module = [*(launcher if row.gpus > 1 else []), "bench.gpu.one", *parts]
            status = _run(module, options.sites.get(row.side.value), options.row_timeout_s, log)
        seconds = round(time.monotonic() - began, 1)
        text = log.read_text(errors="replace")
        if status == "ok" and told.exists():
            return Outcome(row, "ok", json.loads(told.read_text()), seconds, _told(text))
        if status == "failed" and "OutOfMemoryError" in text:
            status = "out of memory"
        return Outcome(row, "failed" if status == "ok" else status, {}, seconds, _end(text))


def changed(row: Row, changes: Sequence[tuple[str, str]]) -> Row:
    """The row with fields of the command line; the type of a field is that of its default.

    Raises:
        ValueError: there is no such field.
    """
    known = {field.name: field for field in fields(Row)}
    values: dict[str, Any] = {}
    for name, text in changes:
        if name not in known:
            raise ValueError(f"--set names {name}, but a row has the fields {', '.join(known)}")
        kind = str(known[name].type)
        values[name] = type(getattr(row, name))(text) if kind in ("Side", "Data") else _typed(kind, text)
    return replace(row, **values)


def _typed(kind: str, text: str) -> Any:
    if "int" in kind:
        return None if text == "none" else int(text)
    if "float" in kind:
        return None if text == "none" else float(text)
    return tuple(text.split(",")) if "tuple" in kind else text


def _run(module: Sequence[str], site: str | None, timeout_s: float, log: Path) -> Status:
    """Runs a module with a side's packages before all others; its output goes to the log, its files beside that."""
    folders = [site or "", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder),
        clock.STARTED: str(time.time()),
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "timed out"
    return "ok" if code == 0 else "failed"


def _expected_s(row: Row, models: Path) -> int:
    is_there = (shapes.folder_of(models, row.model, row.layers, row.start) / "config.json").exists()
    return row.seconds + (0 if is_there or row.model in ("curve", "tiny") else MODEL_SECONDS)


def _told(log: str) -> str:
    """What our planner said, from the log of a row that went well."""
    return "\n".join(
        line.rpartition("INFO ")[2]
        for line in log.splitlines()
        if any(mark in line for mark in ("memory plan", "INFO engine", "bench:", "stage "))
    )


def _end(log: str) -> str:
    return "\n".join(line[:300] for line in log.splitlines()[-LOG_LINES:])


def _draw(outcomes: dict[str, Outcome], folder: Path) -> None:
    try:
        from bench.gpu import plots

        for file in plots.draw(outcomes.values(), folder):
            print(f"plot: {file}")
    except ImportError:
        print("no plots: this Python has no matplotlib")


def _site(text: str) -> tuple[str, str]:
    side, found, folders = text.partition("=")
    if not found or side not in {*(one.value for one in rows.Side), "models"}:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIDE=DIR with a side of the table, or models")
    return side, os.pathsep.join(str(Path(folder).resolve()) for folder in folders.split(os.pathsep))


def _change(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
