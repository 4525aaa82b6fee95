"""What came of the rows: the file that holds it, and the tables that show it. Pure but for reading and writing."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.gpu import rows
from bench.gpu.rows import Row, Side

WINDOW = 10
"""Steps over which loss curves are smoothed."""

Status = Literal["ok", "failed", "out of memory", "timed out"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row and what came of it.

    Attributes:
        measured: what the row's process wrote; empty unless status is ok.
        seconds: of the whole process.
        message: the end of its log, when it failed.
    """

    row: Row
    status: Status
    measured: dict[str, Any]
    seconds: float
    message: str = ""

    @property
    def speed(self) -> int | None:
        """Useful tokens per second, the median of the measured steps."""
        value = self.measured.get("tokens_per_s")
        return None if value is None else int(value)


def read(file: Path) -> dict[str, Outcome]:
    """The outcomes of earlier calls, by name of the row; none when there is no file."""
    if not file.exists():
        return {}
    held = json.loads(file.read_text())["rows"]
    return {one["row"]["name"]: Outcome(**{**one, "row": rows.load(one["row"])}) for one in held}


def write(file: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes all outcomes; the file is complete or as before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"rows": [asdict(one) for one in outcomes]}, indent=1) + "\n")
    part.rename(file)


def is_done(row: Row, earlier: dict[str, Outcome]) -> bool:
    """Whether the row, as it is now, was measured."""
    found = earlier.get(row.name)
    return found is not None and found.status == "ok" and found.row == row


def work_of(row: Row) -> str:
    """What the row trains, whoever does it: rows of the same work are compared."""
    rank = "" if row.rank == 16 else f", rank {row.rank}"
    layers = "" if row.layers is None else f", {row.layers} layers"
    return f"{row.model}{layers}, {row.data.value} {row.seq:,}{rank}"


def table(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table with a line for each row."""
    lines = [
        "| row | tokens/s | peak GiB (reserved) | s a step | first step after s | loss, first and last |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_line(one) for one in outcomes)])


def _line(one: Outcome) -> str:
    if one.status != "ok":
        return f"| {one.row.name} | {one.status} after {one.seconds:.0f} s | | | | |"
    got = one.measured
    step = f"{statistics.median(got['s_per_step']):.3f}" if got["s_per_step"] else ""
    losses = f"{got['losses'][0]:.3f}, {got['losses'][-1]:.3f}" if got["losses"] else ""
    memory = f"{got['peak_allocated_gib']} ({got['peak_reserved_gib']})"
    return f"| {one.row.name} | {one.speed:,} | {memory} | {step} | {got['first_step_s']} | {losses} |"


def comparison(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table of the work that more than one side did: the best of each side, and how far ours is ahead."""
    best: dict[str, dict[Side, int]] = {}
    for one in outcomes:
        is_usual = not one.row.switches and one.row.group != "curve" and one.row.compute_dtype == "bfloat16"
        if one.status == "ok" and one.speed and is_usual and one.row.gpus == 1:
            sides = best.setdefault(work_of(one.row), {})
            sides[one.row.side] = max(sides.get(one.row.side, 0), one.speed)
    lines = [_compared(work, sides) for work, sides in best.items() if Side.OURS in sides and len(sides) > 1]
    if not lines:
        return ""
    head = "| work | ours | Unsloth | Liger | TRL | ours to the best rival |"
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- |", *lines])


def _compared(work: str, sides: dict[Side, int]) -> str:
    cells = [f"{sides[side]:,}" if side in sides else "" for side in (Side.OURS, Side.UNSLOTH, Side.LIGER, Side.TRL)]
    rivals = [speed for side, speed in sides.items() if side not in (Side.OURS, Side.PEFT)]
    ratio = f"{sides[Side.OURS] / max(rivals):.2f}" if rivals else ""
    return f"| {work} | {' | '.join(cells)} | {ratio} |"


def ablation(outcomes: Iterable[Outcome]) -> str:
    """A Markdown table of what each part of the engine gains: the time of a step without it, over that with it."""
    held = list(outcomes)
    whole = next((one.speed for one in held if one.row.name == "ours-2048-auto" and one.speed), None)
    parts = [one for one in held if one.row.group == "ablation" and one.speed]
    if whole is None or not parts:
        return ""
    head = ["| without | tokens/s | gain of the part |", "| --- | --- | --- |"]
    body = [
        f"| {', '.join(one.row.switches)} | {one.speed:,} | {100 * (whole / one.speed - 1):+.1f} % |"
        for one in parts
        if one.speed
    ]
    return "\n".join([*head, *body])


@dataclass(frozen=True, slots=True)
class Curves:
    """Loss curves of one way to train, one for each seed."""

    losses: tuple[tuple[float, ...], ...]

    def spread(self, window: int = WINDOW) -> tuple[list[float], list[float]]:
        """The lowest and the highest of the seeds at each step, each curve smoothed over some steps."""
        smooth = [_smoothed(curve, window) for curve in self.losses]
        steps = range(min(len(curve) for curve in smooth))
        return [min(curve[i] for curve in smooth) for i in steps], [max(curve[i] for curve in smooth) for i in steps]


def _seed(one: Outcome) -> int:
    return one.row.seed


FP8_CURVE = f"{Side.OURS} in FP8"


def curves(outcomes: Iterable[Outcome]) -> dict[str, Curves]:
    """The loss curves by side; those in FP8 are of their own."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for one in sorted((one for one in outcomes if one.row.group == "curve" and one.status == "ok"), key=_seed):
        name = FP8_CURVE if one.row.compute_dtype == "float8" else one.row.side.value
        found.setdefault(name, []).append(tuple(one.measured["losses"]))
    return {name: Curves(tuple(losses)) for name, losses in found.items()}


def distances(ours: Curves, reference: Curves) -> tuple[float, float]:
    """How far our curve is from the reference's of the same seed, and how far its own seeds are from each other.

    Both are means over steps of absolute differences of smoothed losses. The first below the second means that the
    engine changes the curve less than another seed does.
    """
    mine = [_smoothed(curve, WINDOW) for curve in ours.losses]
    theirs = [_smoothed(curve, WINDOW) for curve in reference.losses]
    same_seed = [_apart(first, second) for first, second in zip(mine, theirs, strict=True)]
    between_seeds = [_apart(first, second) for first, second in itertools.combinations(theirs, 2)]
    return statistics.fmean(same_seed), statistics.fmean(between_seeds)


def _apart(first: list[float], second: list[float]) -> float:
    return statistics.fmean(abs(one - other) for one, other in zip(first, second, strict=False))


def _smoothed(curve: Iterable[float], window: int) -> list[float]:
    values = list(curve)
    return [statistics.fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def report(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """All tables that have something to show."""
    held = list(outcomes)
    yield table(held)
    yield from (part for part in (comparison(held), ablation(held)) if part)
    found = curves(held)
    reference = found.pop(Side.PEFT, Curves(()))
    for name, one in sorted(found.items()):
        if len(one.losses) == len(reference.losses) > 1:
            same_seed, between_seeds = distances(one, reference)
            yield (
                f"Loss curve: with the same seed {name} is {same_seed:.4f} from PEFT's, and PEFT's seeds are "
                f"{between_seeds:.4f} from each other (mean over steps of the difference, {WINDOW} steps smoothed)."
            )
