"""Times optimizer steps without disturbing them: an event on the GPU's own queue at the end of each step.

A synchronisation in every step would hide what an engine gains by running ahead of the GPU, so there is one only where
the measurement begins and one at its end.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch

STARTED = "BENCH_STARTED"
"""Environment variable with the wall-clock time at which the process was started."""


@dataclass
class Clock:
    """Marks the end of every step; the first measured step begins at mark number `warmup`.

    Attributes:
        tokens: useful tokens of each step, as numbers or as counts that are still on the GPU.
    """

    warmup: int
    marks: list[Any] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_step_s: float | None = None
    laps: dict[str, list[tuple[Any, float]]] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        """Marks a point within a step, on the GPU's queue and on the host's clock."""
        mark: Any = time.perf_counter()
        if torch.cuda.is_available():
            mark = torch.cuda.Event(enable_timing=True)
            mark.record()
        self.laps.setdefault(name, []).append((mark, time.perf_counter()))

    def parts_ms(self) -> dict[str, list[float]]:
        """Milliseconds from each point to the next, on the GPU and on the host: medians of the measured steps."""
        _synchronize()
        names = list(self.laps)
        found = {}
        for first, second in itertools.pairwise(names):
            pairs = list(zip(self.laps[first], self.laps[second], strict=False))[self.warmup :]
            gpu = [1000 * _between(before[0], after[0]) for before, after in pairs]
            host = [1000 * (after[1] - before[1]) for before, after in pairs]
            if pairs:
                found[f"{first} to {second}"] = [round(statistics.median(gpu), 1), round(statistics.median(host), 1)]
        return found

    def begin(self) -> None:
        """The first step begins."""
        self._mark()
        self._start_measuring()

    def end_step(self) -> None:
        """A step was queued to its end."""
        self._mark()
        if self.first_step_s is None:
            _synchronize()
            self.first_step_s = time.time() - float(os.environ.get(STARTED, time.time()))
        self._start_measuring()

    def count(self, tokens: Any, *, opens_step: bool) -> None:
        """Adds the useful tokens of a forward pass."""
        if opens_step:
            self.tokens.append(0)
        self.tokens[-1] = self.tokens[-1] + tokens

    def seconds(self) -> list[float]:
        """Seconds of each measured step."""
        _synchronize()
        pairs = zip(self.marks[self.warmup :], self.marks[self.warmup + 1 :], strict=False)
        return [_between(first, second) for first, second in pairs]

    def result(self) -> dict[str, Any]:
        """What was measured, as JSON has it."""
        seconds = self.seconds()
        tokens = [int(count) for count in self.tokens][self.warmup :][: len(seconds)]
        speeds = [count / took for count, took in zip(tokens, seconds, strict=True)]
        return {
            "tokens_per_s": round(statistics.median(speeds)) if speeds else None,
            "tokens_per_s_mean": round(sum(tokens) / sum(seconds)) if seconds else None,
            "s_per_step": [round(took, 4) for took in seconds],
            "tokens": tokens,
            "losses": [round(loss, 5) for loss in self.losses],
            "first_step_s": None if self.first_step_s is None else round(self.first_step_s, 1),
            **_memory(),
        }

    def _mark(self) -> None:
        if torch.cuda.is_available():
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def _start_measuring(self) -> None:
        if len(self.marks) == self.warmup + 1 and torch.cuda.is_available():
            _synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.marks.pop()
            self._mark()


def _between(first: Any, second: Any) -> float:
    return first.elapsed_time(second) / 1000 if hasattr(first, "elapsed_time") else float(second - first)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _memory() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {"gpu": None, "peak_allocated_gib": None, "peak_reserved_gib": None}
    return {
        "gpu": torch.cuda.get_device_name(0),
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2),
    }
