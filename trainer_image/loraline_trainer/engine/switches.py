"""Turns optimisations off one by one, for measurements and for tests; training leaves all of them on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch


@dataclass(frozen=True, slots=True)
class Switches:
    """What the engine may use.

    Attributes:
        fold: the adapter rides in the frozen product as extra columns; else it is a product of its own.
        wide_gradient: of groups with many rows, both products of a gradient are one; see `group.WIDE`.
        nf4_kernel: a group's weights and adapters are assembled in one launch of ours; else by bitsandbytes and copies.
        kernels: norms, rotary embedding and gated product in one launch each; else torch's operators.
        loss_kernel: the loss and its gradient in one launch a tile; else torch's operators.
        capped_kernel: attention with a soft cap in kernels of ours; else torch's operators, document by document.
        cudnn_attention: dense rows go to cuDNN; else to flash attention.
        skip_down: a replay leaves out down_proj's product; else it is computed and dropped.
    """

    fold: bool = True
    wide_gradient: bool = True
    nf4_kernel: bool = True
    kernels: bool = True
    loss_kernel: bool = True
    capped_kernel: bool = True
    cudnn_attention: bool = True
    skip_down: bool = True


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Triton's interpreter runs the kernels on a CPU: for their tests alone."""

OFF_VARIABLE = "LORALINE_ENGINE_OFF"
"""Names of switches to turn off, with commas between; for measurements in a process of their own."""


def from_environment(value: str) -> Switches:
    """The switches that a list of names leaves on.

    Raises:
        ValueError: a name is unknown.
    """
    names = [name for name in value.split(",") if name]
    known = [field.name for field in fields(Switches)]
    for name in names:
        if name not in known:
            raise ValueError(f"{OFF_VARIABLE} names {name}; the switches are {', '.join(known)}")
    return replace(Switches(), **dict.fromkeys(names, False))


_now = from_environment(os.environ.get(OFF_VARIABLE, ""))


def now() -> Switches:
    """The switches that hold."""
    return _now


@contextmanager
def switched(**changes: bool) -> Iterator[None]:
    """Other switches for a while."""
    global _now  # noqa: PLW0603 - every kernel call asks; an argument through all layers would say nothing more
    before = _now
    _now = replace(before, **changes)
    try:
        yield
    finally:
        _now = before


def triton_runs(tensor: torch.Tensor) -> bool:
    """Whether kernels can run on the tensor."""
    return tensor.is_cuda or INTERPRETED
