"""Dequantizes an NF4 weight with double quantization in one launch; bit-equal to `nf4.dequantized`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from loraline_trainer.engine.nf4 import Nf4

BLOCK = 2048
"""Bytes of a program: 4,096 weights; 4.0 TB/s on an H200, the memory's limit."""


@triton.jit
def block_scale(  # type: ignore[no-untyped-def]
    block, inside, scales_ptr, nested_scales_ptr, nested_code_ptr, offset_ptr,
    NESTED_BLOCK: tl.constexpr, NESTED: tl.constexpr,
):  # fmt: skip
    """The scale of each block of weights, in float32."""
    if NESTED:
        level = tl.load(scales_ptr + block, mask=inside, other=0).to(tl.int32)
        outer = tl.load(nested_scales_ptr + block // NESTED_BLOCK, mask=inside, other=0.0)
        scale = tl.load(nested_code_ptr + level) * outer + tl.load(offset_ptr)
    else:
        scale = tl.load(scales_ptr + block, mask=inside, other=0.0).to(tl.float32)
    return scale


@triton.jit
def _dequantize(  # type: ignore[no-untyped-def]
    packed_ptr, scales_ptr, nested_scales_ptr, code_ptr, nested_code_ptr, offset_ptr, out_ptr,
    bytes_count, columns, out_stride,
    BLOCK_BYTES: tl.constexpr, QUANT_BLOCK: tl.constexpr, NESTED_BLOCK: tl.constexpr, NESTED: tl.constexpr,
    ROUNDED: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    inside = index < bytes_count
    byte = tl.load(packed_ptr + index, mask=inside, other=0).to(tl.int32)
    scale = block_scale((index * 2) // QUANT_BLOCK, inside, scales_ptr, nested_scales_ptr, nested_code_ptr, offset_ptr,
                        NESTED_BLOCK, NESTED)  # fmt: skip
    high = tl.load(code_ptr + (byte >> 4)) * scale
    low = tl.load(code_ptr + (byte & 15)) * scale
    values = tl.interleave(high, low).to(ROUNDED)
    weight = tl.program_id(0).to(tl.int64) * BLOCK_BYTES * 2 + tl.arange(0, BLOCK_BYTES * 2)
    row = weight // columns
    column = weight - row * columns
    target = out_ptr + row * out_stride + column
    tl.store(target, values.to(out_ptr.dtype.element_ty), mask=weight < bytes_count * 2)


TYPES: dict[torch.dtype, Any] = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}


def place(weight: Nf4, out: torch.Tensor) -> None:
    """Writes the weight into [N, K], whose rows may lie apart."""
    count = weight.packed.numel()
    _dequantize[(triton.cdiv(count, BLOCK),)](
        *pointers(weight), out, count, weight.shape[1], out.stride(0),
        BLOCK_BYTES=BLOCK, **constants(weight), num_warps=8,
        enable_fp_fusion=False,  # a fused multiply-add would round the scale once instead of twice
    )  # fmt: skip


def pointers(weight: Nf4) -> tuple[torch.Tensor, ...]:
    """Bytes, scales, nested scales, code, nested code and offset; any pointer stands where there is nothing nested."""
    nothing = weight.code
    nested = (weight.nested_scales, weight.nested_code, weight.offset)
    scales, code, offset = (nothing if one is None else one for one in nested)
    return weight.packed, weight.scales, scales, weight.code, code, offset


def constants(weight: Nf4) -> dict[str, Any]:
    """How the weight is stored."""
    return {
        "QUANT_BLOCK": weight.block,
        "NESTED_BLOCK": weight.nested_block or 1,
        "NESTED": weight.nested_code is not None,
        "ROUNDED": TYPES[weight.dtype],
    }
