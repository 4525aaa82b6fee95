"""Writes the adapters of a group around its weights in one launch; see `group` for the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from loraline_trainer.engine.group import Group

ROWS, COLUMNS = 32, 256
"""Rows of B, or columns of A, of a program."""

MOST_PARTS = 3


@triton.jit
def _value(  # type: ignore[no-untyped-def]
    a_ptr, b_ptr, row, column, first_row, last_row, first_rank, last_rank, width, scale, BELOW: tl.constexpr
):
    # B: [rows, rank] at (row - first_row, column - first_rank); A: [rank, width] at (row - first_rank, column)
    if BELOW:
        inside = (row >= first_rank) & (row < last_rank) & (column < width)
        return tl.load(a_ptr + (row - first_rank) * width + column, mask=inside, other=0.0) * scale
    inside = (row >= first_row) & (row < last_row) & (column >= first_rank) & (column < last_rank)
    rank = last_rank - first_rank
    return tl.load(b_ptr + (row - first_row) * rank + column - first_rank, mask=inside, other=0.0)


@triton.jit
def _place(  # type: ignore[no-untyped-def]
    a0, b0, bias0, a1, b1, bias1, a2, b2, bias2, out_ptr, out_stride, width, fold, ranks,
    row0, row1, row2, row3, rank0, rank1, rank2, rank3, scale0, scale1, scale2,
    BIAS0: tl.constexpr, BIAS1: tl.constexpr, BIAS2: tl.constexpr, BELOW: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS))[:, None]
    column = (tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS))[None, :]
    value = _value(a0, b0, row, column, row0, row1, rank0, rank1, width, scale0, BELOW)
    value += _value(a1, b1, row, column, row1, row2, rank1, rank2, width, scale1, BELOW)
    value += _value(a2, b2, row, column, row2, row3, rank2, rank3, width, scale2, BELOW)
    if BELOW:
        inside = (row < fold) & (column < width)
        at = out_ptr + (row3 + row).to(tl.int64) * out_stride + column
    else:
        inside = (row < row3) & (column < fold)
        at = out_ptr + row.to(tl.int64) * out_stride + width + column
        mine = column == ranks
        if BIAS0:
            value += tl.load(bias0 + row - row0, mask=mine & (row < row1), other=0.0).to(tl.float32)
        if BIAS1:
            value += tl.load(bias1 + row - row1, mask=mine & (row >= row1) & (row < row2), other=0.0).to(tl.float32)
        if BIAS2:
            value += tl.load(bias2 + row - row2, mask=mine & (row >= row2) & (row < row3), other=0.0).to(tl.float32)
    tl.store(at, value.to(out_ptr.dtype.element_ty), mask=inside)


def place_adapters(group: Group, matrix: torch.Tensor) -> None:
    """Fills the last F columns and the last F rows of M."""
    assert len(group.parts) <= MOST_PARTS, f"a group has at most {MOST_PARTS} layers, not {len(group.parts)}"
    nothing = matrix  # never read: its ranks are none
    pointers: list[torch.Tensor] = []
    has_bias: list[bool] = []
    rows, ranks, scales = [0], [0], []
    for part in group.parts:
        adapter, bias = part.linear.adapter, part.linear.bias
        a = nothing if adapter is None else adapter.a.detach()
        b = nothing if adapter is None else adapter.b.detach()
        pointers += [a, b, nothing if bias is None else bias]
        has_bias.append(bias is not None)
        rows.append(part.rows.stop)
        ranks.append(part.ranks.stop)
        scales.append(0.0 if adapter is None else adapter.scale)
    for _ in range(MOST_PARTS - len(group.parts)):
        pointers += [nothing, nothing, nothing]
        has_bias.append(False)
        rows.append(rows[-1])
        ranks.append(ranks[-1])
        scales.append(0.0)
    for below in (False, True):
        block = (ROWS, triton.next_power_of_2(group.fold)) if not below else (16, COLUMNS)
        height, width = (group.fold, group.columns) if below else (group.rows, group.fold)
        _place[(triton.cdiv(height, block[0]), triton.cdiv(width, block[1]))](
            *pointers, matrix, matrix.stride(0), group.columns, group.fold, group.ranks, *rows, *ranks, *scales,
            BIAS0=has_bias[0], BIAS1=has_bias[1], BIAS2=has_bias[2], BELOW=below,
            BLOCK_ROWS=block[0], BLOCK_COLUMNS=block[1], num_warps=4,
        )  # fmt: skip
