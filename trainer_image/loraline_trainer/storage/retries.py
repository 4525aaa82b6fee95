"""Repeats what failed for a passing reason, for about a minute.

What counts as passing is said by the callers, who raise `Passing`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from loraline_trainer import errors

log = logging.getLogger(__name__)

T = TypeVar("T")


class Passing(Exception):
    """A failure that may be over in a moment; its text is a clause such as `http://s3:9000 did not answer`."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often to try again.

    Attributes:
        limit_s: no try begins later than this after the first one.
        first_s: pause before the second try; each pause is twice the one before, up to `longest_s`.
    """

    limit_s: float = 60.0
    first_s: float = 1.0
    longest_s: float = 15.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def keep_trying(self, operation: Callable[[], T]) -> T:
        """The operation's result.

        Raises:
            StorageUnavailable: it still raised `Passing` when the time was over.
        """
        began = self.clock()
        pause = self.first_s
        tries = 1
        while True:
            try:
                return operation()
            except Passing as reason:
                if self.clock() - began + pause > self.limit_s:
                    raise errors.StorageUnavailable(
                        f"{reason}; tried {tries} times in {self.clock() - began:.0f} s: "
                        f"check that it is up and in reach of this pod"
                    ) from reason
                log.warning("%s; trying again in %.0f s", reason, pause)
            self.sleep(pause)
            tries += 1
            pause = min(2 * pause, self.longest_s)
