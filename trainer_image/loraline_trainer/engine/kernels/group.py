"""Assembles the matrix of a group in one launch: NF4 weights dequantized, adapters and biases around them.

See `group` for the layout. Programs come in five ranges: the bytes of up to three weights, the columns of B, the rows
of A. Bit-equal to `nf4.dequantized`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from loraline_trainer.engine.kernels.nf4 import TYPES, block_scale
from loraline_trainer.engine.nf4 import Nf4

if TYPE_CHECKING:
    from loraline_trainer.engine.group import Group

BYTES = 2048
"""Bytes of a program: 4,096 weights; 4.0 TB/s on an H200, the memory's limit."""

BORDER_ROWS = 32
"""Rows of B of a program."""

BORDER_COLUMNS = 128
"""Columns of A of a program."""

MOST_PARTS = 3


@triton.jit
def _weight(  # type: ignore[no-untyped-def]
    program, packed_ptr, scales_ptr, nested_scales_ptr, offset_ptr, code_ptr, nested_code_ptr, out_ptr,
    bytes_count, columns, out_stride, first_row,
    BLOCK_BYTES: tl.constexpr, QUANT_BLOCK: tl.constexpr, NESTED_BLOCK: tl.constexpr, ROUNDED: tl.constexpr,
):  # fmt: skip
    index = program.to(tl.int64) * BLOCK_BYTES + tl.arange(0, BLOCK_BYTES)
    inside = index < bytes_count
    byte = tl.load(packed_ptr + index, mask=inside, other=0).to(tl.int32)
    scale = block_scale((index * 2) // QUANT_BLOCK, inside, scales_ptr, nested_scales_ptr, nested_code_ptr, offset_ptr,
                        NESTED_BLOCK, True)  # fmt: skip
    high = tl.load(code_ptr + (byte >> 4)) * scale
    low = tl.load(code_ptr + (byte & 15)) * scale
    values = tl.interleave(high, low).to(ROUNDED)
    weight = program.to(tl.int64) * BLOCK_BYTES * 2 + tl.arange(0, BLOCK_BYTES * 2)
    row = weight // columns
    target = out_ptr + (row + first_row) * out_stride + (weight - row * columns)
    tl.store(target, values.to(out_ptr.dtype.element_ty), mask=weight < bytes_count * 2)


@triton.jit
def _of_b(b_ptr, row, column, first_row, last_row, first_rank, last_rank):  # type: ignore[no-untyped-def]
    # B: [rows, rank] at (row - first_row, column - first_rank)
    inside = (row >= first_row) & (row < last_row) & (column >= first_rank) & (column < last_rank)
    at = b_ptr + (row - first_row) * (last_rank - first_rank) + column - first_rank
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _of_a(a_ptr, row, column, first_rank, last_rank, width, scale):  # type: ignore[no-untyped-def]
    # A: [rank, width] at (row - first_rank, column)
    inside = (row >= first_rank) & (row < last_rank) & (column < width)
    return tl.load(a_ptr + (row - first_rank) * width + column, mask=inside, other=0.0).to(tl.float32) * scale


@triton.jit
def _of_bias(bias_ptr, row, column, first_row, last_row, place):  # type: ignore[no-untyped-def]
    inside = (column == place) & (row >= first_row) & (row < last_row)
    return tl.load(bias_ptr + row - first_row + column * 0, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _columns_of_b(  # type: ignore[no-untyped-def]
    program, b0, b1, b2, bias0, bias1, bias2, out_ptr, out_stride, width, fold, ranks,
    row1, row2, row3, rank1, rank2, rank3,
    BIAS0: tl.constexpr, BIAS1: tl.constexpr, BIAS2: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_FOLD: tl.constexpr,
):  # fmt: skip
    row = (program * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    column = tl.arange(0, BLOCK_FOLD)[None, :]
    value = _of_b(b0, row, column, 0, row1, 0, rank1)
    value += _of_b(b1, row, column, row1, row2, rank1, rank2)
    value += _of_b(b2, row, column, row2, row3, rank2, rank3)
    if BIAS0:
        value += _of_bias(bias0, row, column, 0, row1, ranks)
    if BIAS1:
        value += _of_bias(bias1, row, column, row1, row2, ranks)
    if BIAS2:
        value += _of_bias(bias2, row, column, row2, row3, ranks)
    at = out_ptr + row.to(tl.int64) * out_stride + width + column
    tl.store(at, value.to(out_ptr.dtype.element_ty), mask=(row < row3) & (column < fold))


@triton.jit
def _rows_of_a(  # type: ignore[no-untyped-def]
    program, a0, a1, a2, out_ptr, out_stride, width, fold, row3, rank1, rank2, rank3, scale0, scale1, scale2,
    BLOCK_FOLD: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, BLOCK_FOLD)[:, None]
    column = (program * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]
    value = _of_a(a0, row, column, 0, rank1, width, scale0)
    value += _of_a(a1, row, column, rank1, rank2, width, scale1)
    value += _of_a(a2, row, column, rank2, rank3, width, scale2)
    at = out_ptr + (row3 + row).to(tl.int64) * out_stride + column
    tl.store(at, value.to(out_ptr.dtype.element_ty), mask=(row < fold) & (column < width))


@triton.jit
def _assemble(  # type: ignore[no-untyped-def]
    packed0, scales0, nested0, offset0, a0, b0, bias0, packed1, scales1, nested1, offset1, a1, b1, bias1,
    packed2, scales2, nested2, offset2, a2, b2, bias2, code_ptr, nested_code_ptr, out_ptr,
    out_stride, width, fold, ranks, end0, end1, end2, end_b, bytes0, bytes1, bytes2,
    row1, row2, row3, rank1, rank2, rank3, scale0, scale1, scale2,
    BIAS0: tl.constexpr, BIAS1: tl.constexpr, BIAS2: tl.constexpr,
    BLOCK_BYTES: tl.constexpr, QUANT_BLOCK: tl.constexpr, NESTED_BLOCK: tl.constexpr, ROUNDED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_FOLD: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if program < end0:
        _weight(program, packed0, scales0, nested0, offset0, code_ptr, nested_code_ptr, out_ptr, bytes0, width,
                out_stride, 0, BLOCK_BYTES, QUANT_BLOCK, NESTED_BLOCK, ROUNDED)  # fmt: skip
    elif program < end1:
        _weight(program - end0, packed1, scales1, nested1, offset1, code_ptr, nested_code_ptr, out_ptr, bytes1, width,
                out_stride, row1, BLOCK_BYTES, QUANT_BLOCK, NESTED_BLOCK, ROUNDED)  # fmt: skip
    elif program < end2:
        _weight(program - end1, packed2, scales2, nested2, offset2, code_ptr, nested_code_ptr, out_ptr, bytes2, width,
                out_stride, row2, BLOCK_BYTES, QUANT_BLOCK, NESTED_BLOCK, ROUNDED)  # fmt: skip
    elif program < end_b:
        _columns_of_b(program - end2, b0, b1, b2, bias0, bias1, bias2, out_ptr, out_stride, width, fold, ranks,
                      row1, row2, row3, rank1, rank2, rank3, BIAS0, BIAS1, BIAS2, BLOCK_ROWS, BLOCK_FOLD)  # fmt: skip
    else:
        _rows_of_a(program - end_b, a0, a1, a2, out_ptr, out_stride, width, fold, row3, rank1, rank2, rank3,
                   scale0, scale1, scale2, BLOCK_FOLD, BLOCK_COLUMNS)  # fmt: skip


@triton.jit
def _border(  # type: ignore[no-untyped-def]
    a0, b0, bias0, a1, b1, bias1, a2, b2, bias2, all_a_ptr, all_b_ptr, width, fold, ranks, end_b,
    row1, row2, row3, rank1, rank2, rank3, scale0, scale1, scale2,
    BIAS0: tl.constexpr, BIAS1: tl.constexpr, BIAS2: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_FOLD: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if program < end_b:
        _columns_of_b(program, b0, b1, b2, bias0, bias1, bias2, all_b_ptr, fold, 0, fold, ranks,
                      row1, row2, row3, rank1, rank2, rank3, BIAS0, BIAS1, BIAS2, BLOCK_ROWS, BLOCK_FOLD)  # fmt: skip
    else:
        _rows_of_a(program - end_b, a0, a1, a2, all_a_ptr, width, width, fold, 0, rank1, rank2, rank3,
                   scale0, scale1, scale2, BLOCK_FOLD, BLOCK_COLUMNS)  # fmt: skip


def takes(group: Group) -> bool:
    """Whether all weights of the group are NF4 with double quantization, stored alike; looked at once."""
    if group.launches is None:
        group.launches = _alike([part.linear.weight for part in group.parts])
    return group.launches


def _alike(weights: list[Any]) -> bool:
    first = weights[0]
    if len(weights) > MOST_PARTS or not all(isinstance(one, Nf4) and one.nested_code is not None for one in weights):
        return False
    return all(
        (one.block, one.nested_block, one.dtype) == (first.block, first.nested_block, first.dtype)
        and torch.equal(one.code, first.code)
        and torch.equal(one.nested_code, first.nested_code)
        for one in weights[1:]
    )


@dataclass(frozen=True, slots=True)
class Launch:
    """Arguments of both kernels for one group, made once.

    Attributes:
        lies: where the adapters lay when it was made.
    """

    lies: tuple[int, ...]
    grid: tuple[int]
    pointers: tuple[torch.Tensor, ...]
    numbers: tuple[int | float, ...]
    constants: dict[str, Any]
    border_grid: tuple[int]
    border_pointers: tuple[torch.Tensor, ...]
    border_numbers: tuple[int | float, ...]
    border_constants: dict[str, Any]


def assemble(group: Group, matrix: torch.Tensor) -> None:
    """Fills M."""
    launch = _launch_of(group)
    _assemble[launch.grid](*launch.pointers, matrix, matrix.stride(0), *launch.numbers, **launch.constants)


def assemble_border(group: Group, all_a: torch.Tensor, all_b: torch.Tensor) -> None:
    """Fills A [F, K] and B [N, F] alone, contiguous, in one launch."""
    launch = _launch_of(group)
    _border[launch.border_grid](
        *launch.border_pointers, all_a, all_b, *launch.border_numbers, **launch.border_constants
    )


def _launch_of(group: Group) -> Launch:
    lies = group.fingerprint()
    if group.launch is None or group.launch.lies != lies:
        group.launch = _launch(group, lies)
    return group.launch


def _launch(group: Group, lies: tuple[int, ...]) -> Launch:
    nothing = group.parts[0].linear.weight.packed  # type: ignore[attr-defined]  # never read: it has no ranks, no bytes
    weights: list[tuple[torch.Tensor, ...]] = []
    borders: list[tuple[torch.Tensor, ...]] = []
    ends, sizes, rows, ranks, scales, has_bias = [0], [], [0], [0], [], []
    first: Any = group.parts[0].linear.weight
    for part in group.parts:
        weight: Any = part.linear.weight
        adapter, bias = part.linear.adapter, part.linear.bias
        weights.append((weight.packed, weight.scales, weight.nested_scales, weight.offset))
        both = (nothing, nothing) if adapter is None else (adapter.a.detach(), adapter.b.detach())
        borders.append((*both, nothing if bias is None else bias))
        sizes.append(weight.packed.numel())
        ends.append(ends[-1] + triton.cdiv(sizes[-1], BYTES))
        rows.append(part.rows.stop)
        ranks.append(part.ranks.stop)
        scales.append(0.0 if adapter is None else adapter.scale)
        has_bias.append(bias is not None)
    for _ in range(MOST_PARTS - len(group.parts)):
        weights.append((nothing, first.scales, first.nested_scales, first.offset))
        borders.append((nothing, nothing, nothing))
        sizes.append(0)
        ends.append(ends[-1])
        rows.append(rows[-1])
        ranks.append(ranks[-1])
        scales.append(0.0)
        has_bias.append(False)
    of_b = triton.cdiv(group.rows, BORDER_ROWS) if group.fold else 0
    of_a = triton.cdiv(group.columns, BORDER_COLUMNS) if group.fold else 0
    widths, places = (group.columns, group.fold, group.ranks), (*rows[1:], *ranks[1:], *scales)
    border_constants = {
        "BIAS0": has_bias[0], "BIAS1": has_bias[1], "BIAS2": has_bias[2], "BLOCK_ROWS": BORDER_ROWS,
        "BLOCK_FOLD": triton.next_power_of_2(max(group.fold, 1)), "BLOCK_COLUMNS": BORDER_COLUMNS,
        "num_warps": 8,
    }  # fmt: skip
    weight_constants = {
        "BLOCK_BYTES": BYTES, "QUANT_BLOCK": first.block, "NESTED_BLOCK": first.nested_block,
        "ROUNDED": TYPES[first.dtype],
        "enable_fp_fusion": False,  # a fused multiply-add would round the scale once instead of twice
    }  # fmt: skip
    return Launch(
        lies=lies,
        grid=(ends[3] + of_b + of_a,),
        pointers=(
            *(one for parts in zip(weights, borders, strict=True) for part in parts for one in part),
            first.code,
            first.nested_code,
        ),
        numbers=(*widths, *ends[1:], ends[3] + of_b, *sizes, *places),
        constants=border_constants | weight_constants,
        border_grid=(of_b + of_a,),
        border_pointers=tuple(one for part in borders for one in part),
        border_numbers=(*widths, of_b, *places),
        border_constants=border_constants,
    )
