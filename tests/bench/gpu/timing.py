"""Times work on a GPU with device events, and reads profiles."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

BUDGET_MS = 150.0
"""Measured time of one piece of work."""


def median_ms(work: Callable[[], Any], budget_ms: float = BUDGET_MS) -> float:
    """The median time of a piece of work, after a warm-up."""
    work()
    torch.cuda.synchronize()
    first = _once(work)
    times = [_once(work) for _ in range(max(3, min(100, int(budget_ms / max(first, 0.01)))))]
    return statistics.median(times)


def _once(work: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def profile(work: Callable[[], Any], rows: int = 25) -> tuple[str, float, float]:
    """A table of the kernels that take most time; the span of all kernels, and the busy part of it, in ms."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        work()
        torch.cuda.synchronize()
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in seen.events()
        if str(event.device_type).endswith("CUDA")
    )
    totals: dict[str, tuple[float, int]] = {}
    busy, reached = 0.0, spans[0][0]
    for start, end, name in spans:
        before = totals.get(name, (0.0, 0))
        totals[name] = (before[0] + end - start, before[1] + 1)
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    lines = [
        f"{time / 1000:9.2f} ms {count:6d} x  {name[:100]}"
        for name, (time, count) in sorted(totals.items(), key=lambda item: -item[1][0])[:rows]
    ]
    return "\n".join(lines), (reached - spans[0][0]) / 1000, busy / 1000
