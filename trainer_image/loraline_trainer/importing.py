"""Makes imports of PyTorch and of what stands on it quicker. Imports none of it itself."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_collector() -> Iterator[None]:
    """Collects no garbage within the block: it would walk again and again over a million objects, all of which stay.

    That takes 1 to 2 of 13 s of CPU time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def compiling_later() -> Iterator[None]:
    """What PyTorch is to compile within the block it compiles when that is first called.

    bitsandbytes calls `torch.compile` as it is imported, for kernels of devices that have none of its own. The call
    alone imports the compiler, which takes 2 to 3 s, and no run here uses those kernels.
    """
    import torch

    at_once = torch.compile

    def compile_later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(compile_later, **options)
        compiled = functools.cache(lambda: at_once(function, **options))

        @functools.wraps(function)
        def called(*given: Any, **named: Any) -> Any:
            return compiled()(*given, **named)

        return called

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = at_once
