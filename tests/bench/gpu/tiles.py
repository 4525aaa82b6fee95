"""Times tiles of the capped attention's kernels on this GPU, at Gemma 2's shape; the best belong into `TILES`.

    PYTHONPATH=crds:trainer_image:tests python -m bench.gpu.tiles

Each line has one kernel's tile changed; the backward pass is timed whole. The tiles of `TILES` come first.
One that does not fit is reported, and the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.gpu.report import DEVICE, say, timed
from loraline_trainer.engine import layout
from loraline_trainer.engine.attention import Rules
from loraline_trainer.engine.kernels import attention as kernels
from loraline_trainer.engine.kernels.attention import Tile

HEADS, KEYS, WIDTH = 16, 8, 256
LENGTHS = [2048] * 8
CANDIDATES: dict[str, tuple[dict[str, Any], ...]] = {
    "forward": tuple(
        {"forward": tile}
        for tile in (
            Tile(128, 64, 8, 2), Tile(128, 64, 8, 1), Tile(128, 32, 8, 2), Tile(128, 32, 8, 3), Tile(64, 64, 4, 2),
            Tile(64, 32, 4, 2), Tile(64, 32, 4, 3), Tile(64, 64, 4, 1),
        )
    ),
    "backward": (
        *(
            {"of_queries": tile}
            for tile in (
                Tile(128, 32, 8, 2), Tile(128, 32, 8, 1), Tile(128, 64, 8, 1), Tile(64, 32, 4, 2), Tile(64, 32, 4, 1),
                Tile(64, 64, 4, 2),
            )
        ),
        *(
            {"of_keys": tile, "apart": True}
            for tile in (Tile(32, 128, 8, 2), Tile(32, 128, 8, 1), Tile(64, 128, 8, 1), Tile(32, 64, 4, 2),
                         Tile(32, 64, 4, 1))
        ),
        *(
            {"of_keys": tile, "apart": False}
            for tile in (Tile(32, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 1), Tile(32, 64, 8, 1),
                         Tile(16, 64, 8, 2), Tile(32, 32, 4, 2), Tile(32, 32, 8, 2))
        ),
    ),
}  # fmt: skip


def main() -> int:
    """Prints a line a candidate."""
    say(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    tokens, rules, where = sum(LENGTHS), Rules(WIDTH**-0.5, cap=50.0), layout.of_lengths(LENGTHS, DEVICE)
    wide = torch.randn(tokens, HEADS + 2 * KEYS, WIDTH, device=DEVICE, dtype=torch.bfloat16)
    q, k, v = wide.split((HEADS, KEYS, KEYS), 1)
    grad = torch.randn(tokens, HEADS, WIDTH, device=DEVICE, dtype=torch.bfloat16)
    out, log_sum = kernels.forward(q, k, v, where, rules)
    usual = kernels.TILES[WIDTH]
    work: dict[str, Callable[[], Any]] = {
        "forward": partial(kernels.forward, q, k, v, where, rules),
        "backward": partial(kernels.backward, grad, q, k, v, out, log_sum, layout=where, rules=rules),
    }
    for name, changes in CANDIDATES.items():
        for change in changes:
            kernels.TILES[WIDTH] = replace(usual, **change)
            what = ", ".join(
                f"{key} {one.queries} x {one.keys}, {one.warps} warps, {one.stages} stages"
                if isinstance(one, Tile)
                else f"{key} {one}"
                for key, one in change.items()
            )
            timed(f"{name}: {what}", work[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
