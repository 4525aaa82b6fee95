"""A queue of keys for level-triggered work: a key waits once, runs once at a time, and again if it was added since.

What a key means and what is done about it is not known here.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Hashable

from loraline_operator import metrics
from loraline_operator.actions import Ref

FIRST_BACKOFF_S = 0.005
LONGEST_BACKOFF_S = 300.0


class WorkQueue:
    """The keys that wait, run, or are to run later. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Ref] = deque()
        self._queued: set[Ref] = set()
        self._running: set[Ref] = set()
        self._again: dict[Ref, set[Hashable]] = {}
        self._timers: dict[Ref, asyncio.TimerHandle] = {}
        self._failures: dict[Ref, int] = {}
        self._some = asyncio.Event()

    def add(self, key: Ref, cause: Hashable = None) -> None:
        """Lets the key run soon; after its present run if it is running, unless that calls the cause its own."""
        if key in self._running:
            self._again.setdefault(key, set()).add(cause)
        elif key not in self._queued:
            self._queued.add(key)
            self._waiting.append(key)
            self._some.set()
        metrics.queue_depth.set(len(self._waiting))

    def own(self, key: Ref, cause: Hashable) -> None:
        """The present run of the key has itself brought this about, and knows it."""
        causes = self._again.get(key, set())
        causes.discard(cause)
        if not causes:
            self._again.pop(key, None)

    def add_after(self, key: Ref, delay_s: float | None) -> None:
        """Lets the key run after a while instead of at the time said before; None forgets that time."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if delay_s is not None:
            self._timers[key] = asyncio.get_running_loop().call_later(delay_s, self._due, key)

    async def get(self) -> Ref:
        """The next key; it counts as running until `done`."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        key = self._waiting.popleft()
        self._queued.discard(key)
        self._running.add(key)
        metrics.queue_depth.set(len(self._waiting))
        return key

    def done(self, key: Ref) -> None:
        """The key's run has ended, well or not."""
        self._running.discard(key)
        if self._again.pop(key, None):
            self.add(key)

    def succeeded(self, key: Ref) -> None:
        """The next failure of the key is its first again."""
        self._failures.pop(key, None)

    def failed(self, key: Ref, at_least_s: float | None = None) -> float:
        """Lets the key run again after a time that doubles with each failure in a row; returns that time."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff_s = min(FIRST_BACKOFF_S * 2.0 ** min(failures, 20), LONGEST_BACKOFF_S)
        delay_s = max(backoff_s * random.uniform(0.5, 1.0), at_least_s or 0.0)
        self.add_after(key, delay_s)
        return delay_s

    def forget(self, key: Ref) -> None:
        """Drops what is kept about a key whose object is gone."""
        self.add_after(key, None)
        self._failures.pop(key, None)

    def _due(self, key: Ref) -> None:
        self._timers.pop(key, None)
        self.add(key)
