"""What an attempt is doing right now, shared between the training thread and those that look at it.

Measures stage times, tokens per second and the time left. Serving it is `loraline_trainer.server`'s work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from loraline_api.progress import MAX_TOLD_CHARS, Progress, Stage
from loraline_trainer import numbers

log = logging.getLogger(__name__)

WINDOW_STEPS = 10
"""Steps over which tokens per second and the time left are averaged: few enough to follow a change of pace."""


class Tracker:
    """The progress of one attempt; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = Progress(updated_at=datetime.now(UTC))
        self._stage_began = clock()
        self._stage_seconds: dict[Stage, float] = {}
        self._recent: deque[tuple[float, int, int]] = deque(maxlen=WINDOW_STEPS + 1)
        self.listeners: list[Callable[[Progress], None]] = []

    @property
    def now(self) -> Progress:
        """The progress at this moment."""
        with self._lock:
            return self._progress

    @property
    def stage_seconds(self) -> dict[Stage, float]:
        """Seconds spent in each finished stage, in order."""
        with self._lock:
            return dict(self._stage_seconds)

    def enter(self, stage: Stage) -> None:
        """Begins a stage and ends the one before it."""
        with self._lock:
            now = self._clock()
            previous = self._progress.stage
            took = now - self._stage_began
            self._stage_seconds[previous] = self._stage_seconds.get(previous, 0.0) + took
            self._stage_began = now
        log.info("stage %s begins (%s took %.1f s)", stage.value, previous.value, took)
        self._update(stage=stage)

    def begin_training(self, total_steps: int) -> None:
        """Begins the optimizer steps."""
        with self._lock:
            self._recent.clear()
            self._recent.append((self._clock(), 0, 0))
        self._update(total_steps=total_steps, step=0, percent=0)

    def tell_engine(self, text: str) -> None:
        """Says whether the engine trains, and why not."""
        self._update(engine=text[:MAX_TOLD_CHARS])

    def tell_memory_plan(self, text: str) -> None:
        """Says how the GPU's memory is spent."""
        self._update(memory_plan=text[:MAX_TOLD_CHARS])

    def step(
        self, *, step: int, total_steps: int, epoch: float, loss: float, learning_rate: float, tokens: int
    ) -> None:
        """Takes in one optimizer step.

        Args:
            tokens: tokens trained on since the first step, padding not counted.
        """
        with self._lock:
            self._recent.append((self._clock(), step, tokens))
            begin, first_step, first_tokens = self._recent[0]
            end, last_step, last_tokens = self._recent[-1]
        seconds = max(end - begin, 1e-9)
        per_step = seconds / max(last_step - first_step, 1)
        self._update(
            step=step,
            total_steps=total_steps,
            percent=min(100, 100 * step // max(total_steps, 1)),
            epoch=f"{epoch:.2f}",
            loss=numbers.text(loss),
            learning_rate=numbers.text(learning_rate),
            tokens_per_second=round((last_tokens - first_tokens) / seconds),
            eta_seconds=round(per_step * max(total_steps - step, 0)),
        )

    def end_training(self) -> None:
        """Ends the optimizer steps, be it early."""
        self._update(percent=100, eta_seconds=0)

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._progress = self._progress.model_copy(update={**changes, "updated_at": datetime.now(UTC)})
            progress = self._progress
        for listener in self.listeners:
            listener(progress)
