"""When running attempts are asked for their progress."""

from __future__ import annotations

import math

from loraline_operator.actions import Ref


class Pace:
    """Gives running attempts their turns: each one at most so often, all together at most so many in a second.

    They stand in a line, and who has had a turn goes to its end. Those that come while the line is short have their
    first turn at once. Times are the event loop's, in seconds.
    """

    def __init__(self, interval_s: float, per_s: float) -> None:
        self._interval_s = interval_s
        self._step_s = 1 / per_s
        self._turns: dict[Ref, float] = {}
        self._last = -math.inf
        """The last turn in the line."""

    def is_due(self, ref: Ref, now: float) -> bool:
        """Whether it is this one's turn; then it has its next at the end of the line."""
        if ref not in self._turns:
            is_short = len(self._turns) * self._step_s < self._interval_s
            self._turns[ref] = now if is_short else self._end(now, now)
        if now < self._turns[ref]:
            return False
        self._turns[ref] = self._end(now, now + self._interval_s)
        return True

    def wait_s(self, ref: Ref, now: float) -> float | None:
        """Seconds until this one's turn; None where it has none, as it does not run."""
        turn = self._turns.get(ref)
        return None if turn is None else max(0.0, turn - now)

    def leave(self, ref: Ref) -> None:
        """This one runs no longer; those behind it keep their turns, and later ones come sooner."""
        self._turns.pop(ref, None)

    def _end(self, now: float, earliest: float) -> float:
        """A turn at the end of the line, which is as long as those in it need: turns of the past round may be empty."""
        longest = now + self._interval_s + len(self._turns) * self._step_s
        self._last = max(earliest, min(self._last + self._step_s, longest))
        return self._last
