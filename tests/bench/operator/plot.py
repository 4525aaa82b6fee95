"""Draws build/bench-operator.png from build/bench-operator.json; runs where matplotlib is (`setup.sh plot`)."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

BUILD = Path("build")
CURVES = (
    ("burst", "perSecond", "new objects a second"),
    ("burst", "perCoreSecond", "new objects a second of the operator's CPU"),
    ("restart", "seconds", "restart: seconds until at rest"),
    ("restart", "memoryMb", "memory after a restart, MB"),
    ("steady", "requestsPerSecond", "all running: API requests a second"),
    ("steady", "operatorCpuShare", "all running: share of a core"),
)
LINES = {"real": "-", "stand-in": "--"}
COLOURS = {"ours": "tab:blue", "baseline": "tab:orange"}


def main() -> int:
    """One picture: in each panel a curve for each operator on each API server."""
    runs: list[dict[str, Any]] = json.loads((BUILD / "bench-operator.json").read_text(encoding="utf-8"))["runs"]
    figure, panels = pyplot.subplots(3, 2, figsize=(10, 10))
    for panel, (phase, key, title) in zip(panels.flat, CURVES, strict=True):
        for who, server in itertools.product(COLOURS, LINES):
            own = [run for run in runs if (run["operator"], run["apiServer"]) == (who, server) and phase in run]
            points = sorted((run["size"], run[phase][key]) for run in own)
            if points:
                style = {"marker": "o", "linestyle": LINES[server], "color": COLOURS[who]}
                panel.plot(*zip(*points, strict=True), label=f"{who}, {server} API server", **style)
        panel.set(title=title, xlabel="fine-tunes", xscale="log", ylim=(0, None))
        panel.legend()
    figure.tight_layout()
    figure.savefig(BUILD / "bench-operator.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
