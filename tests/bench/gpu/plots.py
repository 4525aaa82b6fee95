"""Draws the results as PNG files: speed and memory of each row, and the loss curves. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.gpu import results
from bench.gpu.results import Outcome
from bench.gpu.rows import Side

COLOURS = {
    Side.OURS: "#1f6f8b",
    Side.UNSLOTH: "#d1832f",
    Side.LIGER: "#8a6bb1",
    Side.TRL: "#8c8c8c",
    Side.PEFT: "#555555",
}


FP8_COLOUR = "#b5495b"


def draw(outcomes: Iterable[Outcome], folder: Path) -> list[Path]:
    """Writes the plots that there are numbers for and names them."""
    import matplotlib as mpl

    mpl.use("Agg")
    held = list(outcomes)
    timed = [one for one in held if one.status == "ok" and one.speed and one.row.group != "curve"]
    written = [_bars(timed, folder / "bench-gpu-speed.png")] if timed else []
    if results.curves(held):
        written.append(_curves(held, folder / "bench-gpu-curve.png"))
    return written


def _bars(timed: list[Outcome], file: Path) -> Path:
    from matplotlib import pyplot

    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(12, 1 + 0.32 * len(timed)), sharey=True)
    names = [one.row.name for one in timed]
    colours = [COLOURS[one.row.side] for one in timed]
    speed.barh(names, [one.speed or 0 for one in timed], color=colours)
    speed.set_xlabel("useful tokens/s")
    memory.barh(names, [one.measured["peak_allocated_gib"] or 0 for one in timed], color=colours)
    memory.set_xlabel("peak allocated, GiB")
    speed.invert_yaxis()
    return _saved(figure, file)


def _curves(held: list[Outcome], file: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, found in sorted(results.curves(held).items()):
        low, high = found.spread()
        colour = FP8_COLOUR if name == results.FP8_CURVE else COLOURS[Side(name)]
        axes.fill_between(range(1, len(low) + 1), low, high, alpha=0.3, color=colour, label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, mean of 10 steps, range over seeds")
    axes.legend()
    return _saved(figure, file)


def _saved(figure: Any, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    return file
