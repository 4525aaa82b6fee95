"""A 4-bit linear layer for CPUs whose gradients are right also after an evaluation.

bitsandbytes 0.50 repacks the weights of a Linear4bit in eval mode on CPUs with AVX512-BF16, and does not unpack them
for training: gemv_4bit has no autograd kernel, so the gradient of everything before the layer is lost
(bitsandbytes/nn/modules.py, Linear4bit.forward). Here the weight stays as it is: it is dequantized for each product,
forward and backward. GPUs keep bitsandbytes' own layer.

bitsandbytes' compiled kernel does it, called in another way than bitsandbytes calls it. It takes the wrong scales when
a row is no whole number of blocks: so it is given a row for each block. Scales are dequantized once. It writes into a
buffer that stays, where new memory comes page by page: 17 of 19 ms for 4,096 x 4,096 in bfloat16. torch's operators
(`engine.nf4.dequantized`) take 7 to 130 times as long for the same, and in pieces that stay in the cache 6 to 13 times.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import torch

from loraline_trainer import importing
from loraline_trainer.engine import nf4 as engine_nf4

with importing.compiling_later():
    from bitsandbytes import cextension, functional
    from bitsandbytes.nn.modules import Linear4bit

KERNEL_TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
INEXACT_BLOCK = 2048
"""From this size of a block on, bitsandbytes does not trust its AVX-512 kernel."""

_kept = threading.local()


@dataclass(frozen=True, slots=True)
class Blocks:
    """A 4-bit weight as bitsandbytes' CPU kernel gets it right and fast: a row for each block, with its scale at hand.

    Attributes:
        packed: shares the layer's memory, but where a short last block has to be filled up. [blocks, block / 2]
        scales: in float32; dequantized once, for 1/16 byte a weight. [blocks]
        kind: nf4 or fp4.
        dtype: to which the product of code and scale is rounded.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    kind: str
    shape: torch.Size
    dtype: torch.dtype

    @classmethod
    def of(cls, packed: torch.Tensor, state: functional.QuantState) -> Blocks:
        """The blocks of a weight."""
        flat, width = packed.view(-1), state.blocksize // 2
        missing = -flat.numel() % width
        whole = torch.nn.functional.pad(flat, (0, missing)) if missing else flat
        scales = engine_nf4.block_scales(engine_nf4.of_state(packed, state))
        return cls(whole.view(-1, width), scales, state.quant_type, state.shape, state.dtype)

    def dequantized(self, dtype: torch.dtype) -> torch.Tensor:
        """The weight in a type for products; it lies in the thread's scratch buffer until the next is asked for.

        Returns: [out, in]
        """
        count, width = self.packed.shape[0], 2 * self.packed.shape[1]
        out = _scratch(count * width, self.dtype)
        kernel = _kernel(self.kind, self.dtype)
        if kernel is None or width >= INEXACT_BLOCK:
            found = torch.ops.bitsandbytes.dequantize_4bit.default(
                self.packed, self.scales, width, self.kind, (count, width), self.dtype
            )
            out.copy_(found.view(-1))
        else:
            places = (ctypes.c_void_p(one.data_ptr()) for one in (self.packed, self.scales, out))
            kernel(*places, *(ctypes.c_longlong(size) for size in (width, count, width)))
        return out[: self.shape.numel()].view(self.shape).to(dtype)


def _kernel(kind: str, dtype: torch.dtype) -> Any:
    """bitsandbytes' function that writes into given memory; None where its compiled library is not there."""
    if isinstance(cextension.lib, cextension.ErrorHandlerMockBNBNativeLibrary):
        return None
    return getattr(cextension.lib, f"cdequantize_blockwise_cpu_{kind}_{KERNEL_TYPES[dtype]}")


def _scratch(elements: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory of this thread for so many elements; it grows with the largest weight and stays."""
    needed = elements * dtype.itemsize
    kept: torch.Tensor | None = getattr(_kept, "bytes", None)
    if kept is None or kept.numel() < needed:
        kept = _kept.bytes = torch.empty(needed, dtype=torch.uint8)
    return kept[:needed].view(dtype)


class FrozenProduct(torch.autograd.Function):
    """x W^T with W in 4 bits and frozen; only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Blocks) -> torch.Tensor:
        ctx.weight = weight
        return torch.nn.functional.linear(x, weight.dequantized(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (grad,) = grads
        return grad @ ctx.weight.dequantized(grad.dtype), None


class CpuLinear4bit(Linear4bit):
    """bitsandbytes' Linear4bit with a forward that never repacks its weight; PEFT takes it for what it extends."""

    blocks: Blocks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or x.dtype
        out: torch.Tensor = FrozenProduct.apply(x.to(dtype), self.blocks)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            out = out + self.bias.to(dtype)
        return out.to(x.dtype)


def keep_unpacked(model: torch.nn.Module) -> int:
    """Puts `CpuLinear4bit` in the place of every Linear4bit of the model and returns their number.

    The weights are shared.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is Linear4bit:
                setattr(parent, name, _converted(child))
                replaced += 1
    return replaced


def _converted(layer: Linear4bit) -> CpuLinear4bit:
    weight: Any = layer.weight
    with torch.device("meta"):
        new = CpuLinear4bit(  # type: ignore[no-untyped-call]
            layer.in_features,
            layer.out_features,
            bias=False,
            compute_dtype=layer.compute_dtype,
            compress_statistics=weight.compress_statistics,
            quant_type=weight.quant_type,
        )
    new.weight, new.bias, new.quant_state = weight, layer.bias, layer.quant_state
    new.blocks = Blocks.of(weight.data, weight.quant_state)
    new.train(layer.training)
    return new
