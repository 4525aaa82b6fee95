"""The kernels of `rotary`: a program holds some heads of one token in registers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from loraline_trainer.engine.norm import Norm
    from loraline_trainer.engine.rotary import Angles

HEADS = 32
"""Heads of a program, at most."""


@triton.jit
def _rotate(  # type: ignore[no-untyped-def]
    grad_ptr, x_ptr, out_ptr, cos_ptr, sin_ptr, weight_ptr,
    grad_stride, grad_head, x_stride, x_head, out_stride, out_head, angle_stride, heads, half, width, eps, plus,
    BACKWARD: tl.constexpr, NORM: tl.constexpr, REST: tl.constexpr, HEADS_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):  # fmt: skip
    # A head lies in three tiles: first half, second half, and the rest that is not rotated.
    row = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * HEADS_BLOCK + tl.arange(0, HEADS_BLOCK))[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (head < heads) & (column < half)
    cos = tl.load(cos_ptr + row * angle_stride + column, mask=column < half, other=0.0)
    sin = tl.load(sin_ptr + row * angle_stride + column, mask=column < half, other=0.0)
    rest_column = tl.arange(0, REST_BLOCK)[None, :] + 2 * half
    rest_inside = (head < heads) & (rest_column < width)

    x_at = x_ptr + row * x_stride + head * x_head
    if NORM:
        x1 = tl.load(x_at + column, mask=inside, other=0.0).to(tl.float32)
        x2 = tl.load(x_at + half + column, mask=inside, other=0.0).to(tl.float32)
        square = tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)
        gain1 = tl.load(weight_ptr + column, mask=column < half, other=0.0).to(tl.float32) + plus
        gain2 = tl.load(weight_ptr + half + column, mask=column < half, other=0.0).to(tl.float32) + plus
        if REST:
            x3 = tl.load(x_at + rest_column, mask=rest_inside, other=0.0).to(tl.float32)
            square += tl.sum(x3 * x3, 1)
            gain3 = tl.load(weight_ptr + rest_column, mask=rest_column < width, other=0.0).to(tl.float32) + plus
        scale = tl.rsqrt(square / width + eps)[:, None]
        x1 *= scale
        x2 *= scale
        if REST:
            x3 *= scale

    out_at = out_ptr + row * out_stride + head * out_head
    kind = out_ptr.dtype.element_ty
    if BACKWARD:
        grad_at = grad_ptr + row * grad_stride + head * grad_head
        g1 = tl.load(grad_at + column, mask=inside, other=0.0).to(tl.float32)
        g2 = tl.load(grad_at + half + column, mask=inside, other=0.0).to(tl.float32)
        y1 = g1 * cos + g2 * sin
        y2 = g2 * cos - g1 * sin
        if REST:
            y3 = tl.load(grad_at + rest_column, mask=rest_inside, other=0.0).to(tl.float32)
        if NORM:
            y1 *= gain1
            y2 *= gain2
            dot = tl.sum(y1 * x1, 1) + tl.sum(y2 * x2, 1)
            if REST:
                y3 *= gain3
                dot += tl.sum(y3 * x3, 1)
            mean = (dot / width)[:, None]
            y1 = (y1 - x1 * mean) * scale
            y2 = (y2 - x2 * mean) * scale
            if REST:
                y3 = (y3 - x3 * mean) * scale
    else:
        if NORM:
            x1 *= gain1
            x2 *= gain2
            if REST:
                x3 *= gain3
        else:
            x1 = tl.load(x_at + column, mask=inside, other=0.0).to(tl.float32)
            x2 = tl.load(x_at + half + column, mask=inside, other=0.0).to(tl.float32)
            if REST:
                x3 = tl.load(x_at + rest_column, mask=rest_inside, other=0.0).to(tl.float32)
        y1 = x1 * cos - x2 * sin
        y2 = x2 * cos + x1 * sin
        if REST:
            y3 = x3
    tl.store(out_at + column, y1.to(kind), mask=inside)
    tl.store(out_at + half + column, y2.to(kind), mask=inside)
    if REST:
        tl.store(out_at + rest_column, y3.to(kind), mask=rest_inside)


def rotate(heads: torch.Tensor, turn: Angles, norm: Norm | None, out: torch.Tensor) -> None:
    """See `rotary.rotate`."""
    _launch(heads, heads, turn, norm, out, backward=False)


def rotate_backward(
    grad: torch.Tensor, heads: torch.Tensor, turn: Angles, norm: Norm | None, out: torch.Tensor
) -> None:
    """See `rotary.rotate_backward`."""
    _launch(grad, heads, turn, norm, out, backward=True)


def _launch(
    grad: torch.Tensor, heads: torch.Tensor, turn: Angles, norm: Norm | None, out: torch.Tensor, *, backward: bool
) -> None:
    tokens, count, width = heads.shape
    half = turn.cos.shape[1]
    rest = width - 2 * half
    block = min(HEADS, triton.next_power_of_2(count))
    _rotate[(tokens, triton.cdiv(count, block))](
        grad, heads, out, turn.cos, turn.sin, turn.cos if norm is None else norm.weight,
        grad.stride(0), grad.stride(1), heads.stride(0), heads.stride(1), out.stride(0), out.stride(1),
        turn.cos.stride(0), count, half, width, 0.0 if norm is None else norm.eps, 0.0 if norm is None else norm.plus,
        BACKWARD=backward, NORM=norm is not None, REST=rest > 0, HEADS_BLOCK=block,
        BLOCK=triton.next_power_of_2(half), REST_BLOCK=triton.next_power_of_2(max(rest, 1)), num_warps=4,
    )  # fmt: skip
