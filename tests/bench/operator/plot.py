"""Draws build/bench-operator.png from build/bench-operator.json; runs where matplotlib is (`setup.sh plot`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

BUILD = Path("build")
CURVES = (
    ("burst", "perCoreSecond", "new objects a second of the operator's CPU"),
    ("burst", "perSecond", "new objects a second, all on this machine"),
    ("restart", "seconds", "restart: seconds until at rest"),
    ("restart", "memoryMb", "memory after a restart, MB"),
)


def main() -> int:
    """One picture with a curve for each operator in each panel."""
    runs: list[dict[str, Any]] = json.loads((BUILD / "bench-operator.json").read_text(encoding="utf-8"))["runs"]
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7))
    for panel, (phase, key, title) in zip(panels.flat, CURVES, strict=True):
        for who in ("ours", "baseline"):
            points = sorted((run["size"], run[phase][key]) for run in runs if run["operator"] == who)
            panel.plot([size for size, _ in points], [value for _, value in points], marker="o", label=who)
        panel.set(title=title, xlabel="fine-tunes", xscale="log", ylim=(0, None))
        panel.legend()
    figure.tight_layout()
    figure.savefig(BUILD / "bench-operator.png", dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
