"""Keeps PyTorch's compiler out of imports: calling `torch.compile` takes 3 s before anything is compiled.

bitsandbytes calls it as it is imported, for kernels of devices that have none of its own. No run here uses those.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def later() -> Iterator[None]:
    """What is compiled within the block is compiled when it is first called."""
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
