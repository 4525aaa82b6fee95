"""The flows: what users and pods do while faults strike. A module here with `play` is a flow of its name.

A flow waits for what the cluster shows before each step, so that it can go on however late the operator is.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Protocol

from faults.stage import Stage


class Flow(Protocol):
    """One flow."""

    async def play(self, stage: Stage) -> None:
        """Plays it to its end."""


def flows() -> Mapping[str, Flow]:
    """All flows by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
