"""A 4-bit linear layer for CPUs whose gradients are right also after an evaluation.

bitsandbytes 0.50 repacks the weights of a Linear4bit in eval mode on CPUs with AVX512-BF16, and does not unpack them
for training: gemv_4bit has no autograd kernel, so the gradient of everything before the layer is lost
(bitsandbytes/nn/modules.py, Linear4bit.forward). Here the weight stays as it is: it is dequantized for each product,
forward and backward. With SmolLM2's shapes and 768 tokens the dequantization is 8 to 30 % of a forward product in
bfloat16 (0.08 ms of 0.5 ms for 576 x 576 on two cores with AMX), and float32 products take 2 to 7 times as long.
GPUs keep bitsandbytes' own layer.
"""

from __future__ import annotations

from typing import Any

import torch

from loraline_trainer import importing
from loraline_trainer.engine import nf4 as engine_nf4

with importing.compiling_later():
    from bitsandbytes import functional
    from bitsandbytes.nn.modules import Linear4bit


class FrozenProduct(torch.autograd.Function):
    """x W^T with W in 4 bits and frozen; only x gets a gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, state: functional.QuantState) -> torch.Tensor:
        ctx.weight, ctx.state = weight, state
        return torch.nn.functional.linear(x, dequantized(weight, state, x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (grad,) = grads
        return grad @ dequantized(ctx.weight, ctx.state, grad.dtype), None, None


class CpuLinear4bit(Linear4bit):
    """bitsandbytes' Linear4bit with a forward that never repacks its weight; PEFT takes it for what it extends."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or x.dtype
        weight: Any = self.weight
        out: torch.Tensor = FrozenProduct.apply(  # type: ignore[no-untyped-call]
            x.to(dtype), weight.data, weight.quant_state
        )
        if self.bias is not None:
            out = out + self.bias.to(dtype)
        return out.to(x.dtype)


def dequantized(weight: torch.Tensor, state: functional.QuantState, dtype: torch.dtype) -> torch.Tensor:
    """The weight [out, in] in a type for products.

    bitsandbytes 0.50's CPU kernel takes the wrong scales when a row is no whole number of blocks; ours takes the right.
    """
    if state.shape[-1] % state.blocksize and state.quant_type == "nf4":
        return engine_nf4.dequantized(engine_nf4.of_state(weight, state)).to(dtype)
    return functional.dequantize_4bit(weight, state).to(dtype)


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
    new.train(layer.training)
    return new
