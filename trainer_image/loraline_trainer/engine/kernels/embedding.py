"""Gathers rows of a table, which may lie in pinned host memory, without asking the host for anything."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _gather(table_ptr, ids_ptr, out_ptr, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.load(ids_ptr + row).to(tl.int64)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        tl.store(out_ptr + row * width + column, tl.load(table_ptr + at * width + column, mask=inside), mask=inside)


def gathered(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The rows of a table [V, H] that ids [T] name. [T, H]"""
    out = torch.empty(ids.shape[0], table.shape[1], dtype=table.dtype, device=ids.device)
    _gather[(ids.shape[0],)](table.detach(), ids, out, table.shape[1], BLOCK=1024, num_warps=4)
    return out
