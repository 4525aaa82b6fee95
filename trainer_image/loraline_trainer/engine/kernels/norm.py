"""The kernels of `norm`: a program holds one token's row in registers, so every tensor passes memory once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from loraline_trainer.engine.norm import Norm


@triton.jit
def _add_norm(  # type: ignore[no-untyped-def]
    x_ptr, delta_ptr, weight_ptr, total_ptr, out_ptr, scale_ptr,
    x_stride, delta_stride, total_stride, out_stride, width, eps, plus,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0)
    if ADD:
        delta = tl.load(delta_ptr + row * delta_stride + column, mask=inside, other=0.0)
        # The sum is rounded before it is normed: the backward pass sees the same rounded sum.
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + row * total_stride + column, x, mask=inside)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    gain = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32) + plus
    tl.store(out_ptr + row * out_stride + column, (wide * scale * gain).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr + row, scale)


@triton.jit
def _norm_backward(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, scale_ptr, weight_ptr, residual_ptr, out_ptr,
    grad_stride, x_stride, residual_stride, out_stride, width, plus,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    scale = tl.load(scale_ptr + row)
    gain = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32) + plus
    inner = tl.load(grad_ptr + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32) * gain
    normalized = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32) * scale
    result = (inner - normalized * (tl.sum(inner * normalized, 0) / width)) * scale
    if ADD:
        result += tl.load(residual_ptr + row * residual_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * out_stride + column, result.to(out_ptr.dtype.element_ty), mask=inside)


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, norm: Norm, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `norm.add_norm`."""
    tokens, width = x.shape
    total = x if delta is None else torch.empty_like(x)
    scale = torch.empty(tokens, dtype=torch.float32, device=x.device)
    added = x if delta is None else delta
    _add_norm[(tokens,)](
        x, added, norm.weight, total, out, scale,
        x.stride(0), added.stride(0), total.stride(0), out.stride(0), width, norm.eps, norm.plus,
        ADD=delta is not None, BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
    )  # fmt: skip
    return total, scale


def norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    norm: Norm,
    *,
    residual: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """See `norm.norm_backward`."""
    tokens, width = x.shape
    added = grad if residual is None else residual
    _norm_backward[(tokens,)](
        grad, x, scale, norm.weight, added, out,
        grad.stride(0), x.stride(0), added.stride(0), out.stride(0), width, norm.plus,
        ADD=residual is not None, BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
    )  # fmt: skip


def _warps(width: int) -> int:
    """A warp for each 512 columns: 16 values a thread."""
    return max(1, min(16, int(triton.next_power_of_2(width)) // 512))
