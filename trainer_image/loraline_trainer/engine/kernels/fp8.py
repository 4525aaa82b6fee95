"""The kernels of `fp8`: activations and NF4 weights to e4m3, each in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from loraline_trainer.engine.kernels import nf4

if TYPE_CHECKING:
    from loraline_trainer.engine.nf4 import Nf4

BYTES = 2048
"""Packed bytes of a program that writes rows: 4,096 weights."""

TILE_ROWS, TILE_COLUMNS = 64, 128
"""The tile that is turned when columns are written: 64 bytes a row of what is read, 64 a row of what is written."""


@triton.jit
def _quantize(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, row_scale_ptr, x_stride, width, smallest, LARGEST: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), 0), smallest) / LARGEST
    tl.store(out_ptr + row * width + column, (x / scale).to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(row_scale_ptr + row, scale)


@triton.jit
def _rows(  # type: ignore[no-untyped-def]
    packed_ptr, scales_ptr, nested_scales_ptr, code_ptr, nested_code_ptr, offset_ptr, row_scale_ptr, out_ptr,
    bytes_count, columns,
    BLOCK_BYTES: tl.constexpr, QUANT_BLOCK: tl.constexpr, NESTED_BLOCK: tl.constexpr, NESTED: tl.constexpr,
    ROUNDED: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64) * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    inside = index < bytes_count
    byte = tl.load(packed_ptr + index, mask=inside, other=0).to(tl.int32)
    scale = nf4.block_scale((index * 2) // QUANT_BLOCK, inside, scales_ptr, nested_scales_ptr, nested_code_ptr,
                            offset_ptr, NESTED_BLOCK, NESTED)  # fmt: skip
    row_scale = tl.load(row_scale_ptr + (index * 2) // columns, mask=inside, other=1.0)
    high = (tl.load(code_ptr + (byte >> 4)) * scale).to(ROUNDED).to(tl.float32) / row_scale
    low = (tl.load(code_ptr + (byte & 15)) * scale).to(ROUNDED).to(tl.float32) / row_scale
    weight = tl.program_id(0).to(tl.int64) * BLOCK_BYTES * 2 + tl.arange(0, BLOCK_BYTES * 2)
    values = tl.interleave(high, low).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + weight, values, mask=weight < bytes_count * 2)


@triton.jit
def _columns(  # type: ignore[no-untyped-def]
    packed_ptr, scales_ptr, nested_scales_ptr, code_ptr, nested_code_ptr, offset_ptr, column_scale_ptr, out_ptr,
    rows, columns, out_stride,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, QUANT_BLOCK: tl.constexpr, NESTED_BLOCK: tl.constexpr,
    NESTED: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)).to(tl.int64)[:, None]
    pair = (tl.program_id(1) * (BLOCK_COLUMNS // 2) + tl.arange(0, BLOCK_COLUMNS // 2))[None, :]
    index = row * (columns // 2) + pair
    inside = (row < rows) & (pair * 2 < columns)
    byte = tl.load(packed_ptr + index, mask=inside, other=0).to(tl.int32)
    scale = nf4.block_scale((index * 2) // QUANT_BLOCK, inside, scales_ptr, nested_scales_ptr, nested_code_ptr,
                            offset_ptr, NESTED_BLOCK, NESTED)  # fmt: skip
    # Both weights of a byte lie in one block, and all columns of a block have one scale.
    column_scale = tl.load(column_scale_ptr + pair * 2, mask=pair * 2 < columns, other=1.0)
    high = (tl.load(code_ptr + (byte >> 4)) * scale).to(ROUNDED).to(tl.float32) / column_scale
    low = (tl.load(code_ptr + (byte & 15)) * scale).to(ROUNDED).to(tl.float32) / column_scale
    turned = tl.trans(tl.interleave(high, low)).to(out_ptr.dtype.element_ty)  # [columns, rows]
    to_row = (tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)).to(tl.int64)[:, None]
    to_column = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[None, :]
    tl.store(out_ptr + to_row * out_stride + to_column, turned, mask=(to_row < columns) & (to_column < rows))


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `fp8.quantized`."""
    from loraline_trainer.engine import fp8

    tokens, width = x.shape
    out = torch.empty(tokens, width, dtype=fp8.TYPE, device=x.device)
    scale = torch.empty(tokens, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(width)
    _quantize[(tokens,)](
        x, out, scale, x.stride(0), width, fp8.SMALLEST_SCALE,
        LARGEST=fp8.LARGEST, BLOCK=block, num_warps=max(1, min(32, block // 1024)),
    )  # fmt: skip
    return out, scale


def place_rows(weight: Nf4, scales: torch.Tensor, out: torch.Tensor) -> None:
    """See `fp8.place_rows`."""
    count = weight.packed.numel()
    _rows[(triton.cdiv(count, BYTES),)](
        *nf4.pointers(weight), scales, out, count, weight.shape[1],
        BLOCK_BYTES=BYTES, **nf4.constants(weight), num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip


def place_columns(weight: Nf4, scales: torch.Tensor, out: torch.Tensor) -> None:
    """See `fp8.place_columns`."""
    rows, columns = weight.shape
    _columns[(triton.cdiv(rows, TILE_ROWS), triton.cdiv(columns, TILE_COLUMNS))](
        *nf4.pointers(weight), scales, out, rows, columns, out.stride(0),
        BLOCK_ROWS=TILE_ROWS, BLOCK_COLUMNS=TILE_COLUMNS, **nf4.constants(weight), num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip
