"""Frozen weights, and how they are written into the buffer that a product reads: NF4 dequantized, or copied.

The torch code here is the reference for `kernels.nf4` and serves CPUs; both equal bitsandbytes bit for bit.
Letters: N rows (outputs) and K columns (inputs) of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from loraline_trainer.engine import switches


class Frozen(Protocol):
    """A weight that is not trained."""

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        ...

    def place(self, out: torch.Tensor) -> None:
        """Writes the weight into [N, K], whose rows may lie apart."""
        ...


@dataclass(frozen=True, slots=True)
class Dense:
    """A weight that is not quantized."""

    weight: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K]."""
        return self.weight.shape[0], self.weight.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.weight.device

    def place(self, out: torch.Tensor) -> None:
        """Copies the weight."""
        out.copy_(self.weight)


@dataclass(frozen=True, slots=True)
class Nf4:
    """A 4-bit weight as bitsandbytes stores it.

    Attributes:
        packed: two weights a byte, the first in the high nibble, row after row. [N * K / 2]
        code: value of each nibble. [16]
        scales: of each block of weights: float32, or with double quantization a byte. [N * K / block]
        nested_code, nested_scales, offset: give the scale back:
            nested_code[byte] * nested_scales[block of 256 bytes] + offset; None without double quantization.
        dtype: to which the product of code and scale is rounded.
        state: bitsandbytes' own description, for comparisons.
    """

    packed: torch.Tensor
    code: torch.Tensor
    scales: torch.Tensor
    nested_code: torch.Tensor | None
    nested_scales: torch.Tensor | None
    offset: torch.Tensor | None
    block: int
    nested_block: int
    shape: tuple[int, int]
    dtype: torch.dtype
    state: Any

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.packed.device

    def place(self, out: torch.Tensor) -> None:
        """Dequantizes the weight."""
        if switches.now().nf4_kernel and switches.triton_runs(out):
            from loraline_trainer.engine.kernels import nf4 as kernels

            kernels.place(self, out)
        elif out.is_cuda:
            from bitsandbytes import functional

            out.copy_(functional.dequantize_4bit(self.packed, self.state))
        else:
            out.copy_(dequantized(self))


def of_layer(weight: Any) -> Nf4:
    """The weight of a bitsandbytes layer, whose memory is shared."""
    return of_state(weight.data, weight.quant_state)


def of_state(packed: torch.Tensor, state: Any) -> Nf4:
    """The weight of bytes and their `QuantState`."""
    nested = state.state2
    return Nf4(
        packed=packed.view(-1),
        code=state.code,
        scales=state.absmax,
        nested_code=None if nested is None else nested.code,
        nested_scales=None if nested is None else nested.absmax,
        offset=None if nested is None else state.offset,
        block=state.blocksize,
        nested_block=0 if nested is None else nested.blocksize,
        shape=(state.shape[0], state.shape[1]),
        dtype=state.dtype,
        state=state,
    )


def block_scales(weight: Nf4) -> torch.Tensor:
    """The scale of each block in float32. [N * K / block]"""
    if weight.nested_code is None or weight.nested_scales is None or weight.offset is None:
        return weight.scales.float()
    values = weight.nested_code[weight.scales.view(-1).int()]
    missing = -values.numel() % weight.nested_block
    padded = torch.nn.functional.pad(values, (0, missing)).view(-1, weight.nested_block)
    scaled = (padded * weight.nested_scales.view(-1, 1)).view(-1)[: values.numel()]
    return scaled + weight.offset


def dequantized(weight: Nf4) -> torch.Tensor:
    """The weight [N, K]: code times scale in float32, then rounded."""
    bytes_ = torch.arange(256, device=weight.packed.device)
    pairs = torch.stack((weight.code[bytes_ >> 4], weight.code[bytes_ & 15]), dim=1)  # [256, 2]
    # Two float32 are looked up as one int64: a gather of 8 bytes.
    table = pairs.contiguous().view(torch.int64).view(-1)
    values = table.index_select(0, weight.packed.int()).view(torch.float32)
    missing = -values.numel() % weight.block  # the last block may be short
    blocks = torch.nn.functional.pad(values, (0, missing)).view(-1, weight.block)
    scaled = (blocks * block_scales(weight)[:, None]).view(-1)[: values.numel()]
    return scaled.to(weight.dtype).view(weight.shape)
