"""The flows: what users and pods do while faults strike. A module here with `play` is a flow of its name.

One that also has `prepare` needs something to be there before the operator starts.

A flow waits for what the cluster shows before each step, so that it can go on however late the operator is.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from faults.stage import Stage

Act = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow."""

    play: Act
    """Plays it to its end."""

    prepare: Act
    """Makes what is there before the operator starts."""


@functools.cache
def flows() -> Mapping[str, Flow]:
    """All flows by name."""
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{name}")
        found[name.replace("_", "-")] = Flow(module.play, getattr(module, "prepare", _nothing))
    return found


async def _nothing(stage: Stage) -> None:
    """Most flows begin with an empty namespace."""
