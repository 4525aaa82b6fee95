"""What the parts of the smoke share: the printed table, the model's engine, and random documents."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import torch

from bench.gpu import timing
from loraline_trainer.engine import build, layout
from loraline_trainer.engine.engine import Engine

TOKENS = 16384
DEVICE = torch.device("cuda", 0)
TABLE: list[str] = []


def say(line: str, *, table: bool = True) -> None:
    """Prints a line now, and again in the table."""
    print(line, flush=True)
    if table:
        TABLE.append(line)


def engine_of(model: Any, *, in_fp8: bool = False) -> Engine:
    """The engine of the model."""
    found = build.engine_for(model, in_fp8=in_fp8)
    assert isinstance(found, Engine), found
    return found


def tried(name: str, work: Callable[[], Any]) -> Any:
    """The result, or None when it failed: that is said and the others go on."""
    try:
        return work()
    except Exception as problem:
        say(f"{name}: FAILED {type(problem).__name__} {str(problem)[:300]}")
        traceback.print_exc()
        return None


def timed(name: str, work: Callable[[], Any], ceiling: float | None = None) -> None:
    """Says how long a piece of work takes, beside its ceiling."""
    took = tried(name, lambda: timing.median_ms(work))
    if took is not None:
        note = f"  ceiling {ceiling:.3f}  {took / ceiling:.2f} x" if ceiling else ""
        say(f"{name:44s} {took:7.3f} ms{note}")


def tokens_of(lengths: list[int], vocabulary: int) -> tuple[torch.Tensor, layout.Layout, torch.Tensor, torch.Tensor]:
    """Random documents of which every token counts: what `Engine.loss` takes."""
    ids = torch.randint(3, vocabulary, (sum(lengths),), device=DEVICE)
    where = layout.of_lengths(lengths, DEVICE)
    place = (where.positions > 0).nonzero()[:, 0]
    return ids, where, place - 1, ids[place]


def ragged_lengths(total: int = TOKENS, most: int = 2048) -> list[int]:
    """Log-normal lengths around an eighth of the longest, as instruction data has them; about `total` tokens."""
    draw = torch.Generator().manual_seed(1)
    found: list[int] = []
    while sum(found) < total - most // 4:
        value = torch.exp(torch.randn((), generator=draw) * 0.8 + torch.log(torch.tensor(most / 8.0)))
        found.append(int(value.clamp(16, min(most, total - sum(found)))))
    return found
