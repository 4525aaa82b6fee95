"""SIGTERM, and Ctrl-C on a terminal, as a request to stop: at once, or when training has been saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from types import FrameType

from loraline_trainer import errors


class Interruption:
    """A request to stop, raised as `Interrupted` in the main thread; further ones are ignored, the end is near."""

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the signal that came, as in SIGTERM."""
        self._is_deferred = False
        self._is_too_late = False

    @contextlib.contextmanager
    def heeded(self, numbers: Sequence[signal.Signals] = (signal.SIGTERM,), *, is_last: bool = False) -> Iterator[None]:
        """Listens to the signals while the block runs.

        Args:
            is_last: the process ends after the block, and signals must not take its exit code from it.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._is_too_late:
                return
            for one in numbers:
                signal.signal(one, signal.SIG_IGN)
            self.requested = signal.Signals(number).name
            if not self._is_deferred:
                raise errors.Interrupted

        previous = {number: signal.signal(number, interrupt) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, signal.SIG_IGN if is_last else handler)

    def end(self) -> None:
        """The work is done, well or not: what comes now is ignored, as it would take the outcome away."""
        self._is_too_late = True

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Lets the block look at `requested` itself; what it leaves undone is raised at its end."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self.requested is not None:
            raise errors.Interrupted
