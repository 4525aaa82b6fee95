"""The kernels of `gated`, element by element, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from loraline_trainer.engine.gated import Activation

BLOCK = 1024


@triton.jit
def _act_and_slope(gate, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    if GELU:
        square = gate * gate
        inner = 0.7978845608028654 * gate * (1 + 0.044715 * square)
        tanh = 1 - 2 / (tl.exp(2 * inner) + 1)
        active = 0.5 * gate * (1 + tanh)
        slope = 0.5 * (1 + tanh) + 0.5 * gate * (1 - tanh * tanh) * 0.7978845608028654 * (1 + 0.134145 * square)
    else:
        sigmoid = 1 / (1 + tl.exp(-gate))
        active = gate * sigmoid
        slope = sigmoid * (1 + gate * (1 - sigmoid))
    return active, slope


@triton.jit
def _gated(  # type: ignore[no-untyped-def]
    gate_up_ptr, out_ptr, gate_up_stride, out_stride, width, GELU: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = column < width
    at = gate_up_ptr + row * gate_up_stride + column
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    active, _ = _act_and_slope(gate, GELU)
    tl.store(out_ptr + row * out_stride + column, (active * up).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(  # type: ignore[no-untyped-def]
    grad_ptr, gate_up_ptr, grad_stride, gate_up_stride, width, GELU: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = column < width
    at = gate_up_ptr + row * gate_up_stride + column
    grad_at = grad_ptr + row * grad_stride + column
    gate = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(at + width, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_at, mask=inside, other=0.0).to(tl.float32)
    active, slope = _act_and_slope(gate, GELU)
    kind = gate_up_ptr.dtype.element_ty
    tl.store(at, (grad * up * slope).to(kind), mask=inside)
    tl.store(at + width, (grad * active).to(kind), mask=inside)
    tl.store(grad_at, (active * up).to(kind), mask=inside)


def gated(gate_up: torch.Tensor, activation: Activation, out: torch.Tensor) -> None:
    """See `gated.gated`."""
    tokens, width = out.shape
    _gated[(tokens, triton.cdiv(width, BLOCK))](
        gate_up, out, gate_up.stride(0), out.stride(0), width,
        GELU=activation.value == "gelu_tanh", BLOCK_COLUMNS=BLOCK, num_warps=4,
    )  # fmt: skip


def gated_backward(grad: torch.Tensor, gate_up: torch.Tensor, activation: Activation) -> None:
    """See `gated.gated_backward`."""
    tokens, width = grad.shape
    _gated_backward[(tokens, triton.cdiv(width, BLOCK))](
        grad, gate_up, grad.stride(0), gate_up.stride(0), width,
        GELU=activation.value == "gelu_tanh", BLOCK_COLUMNS=BLOCK, num_warps=4,
    )  # fmt: skip
