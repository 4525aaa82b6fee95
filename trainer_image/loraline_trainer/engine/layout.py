"""Where the documents of a micro-batch lie, known on the CPU: the GPU is never asked.

All documents lie end to end in one row of T tokens. When they are equally long the row is also a dense block.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Layout:
    """Documents end to end.

    Attributes:
        lengths: tokens of each document.
        bounds: first token of each document, and the end, on the device. [documents + 1], int32
        positions: of each token in its document, on the device. [T]
    """

    lengths: tuple[int, ...]
    bounds: torch.Tensor
    positions: torch.Tensor

    @property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(self.lengths)

    @property
    def is_dense(self) -> bool:
        """Whether all documents are equally long."""
        return len(set(self.lengths)) == 1


def of_lengths(lengths: Sequence[int], device: torch.device) -> Layout:
    """The layout of documents of these lengths."""
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    positions = torch.cat([torch.arange(length) for length in lengths])
    if device.type == "cuda":
        bounds, positions = bounds.pin_memory(), positions.pin_memory()
    return Layout(tuple(lengths), bounds.to(device, non_blocking=True), positions.to(device, non_blocking=True))
