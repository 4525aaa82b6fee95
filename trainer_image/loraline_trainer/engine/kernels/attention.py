"""The kernels of capped `attention`: scores stay in registers, none goes to memory.

FlashAttention 2 (arXiv 2307.08691) for documents end to end: token i sees the tokens from low(i) to i, where low(i) is
the first of its document or of its window. low never falls, so the keys of a tile of queries are one range, and the
queries of a tile of keys too; tiles lie over document ends as they come. Exponentials and logarithms are of base 2.
Each number is written by one program, so results do not depend on the order of programs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from loraline_trainer.engine.attention import Rules
    from loraline_trainer.engine.layout import Layout

LOG2_E = math.log2(math.e)

BOUNDS = 64
"""Document ends that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries and keys that a program works on at a time; its warps, and tiles that are fetched ahead."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """Of each kernel.

    Attributes:
        apart: whether keys and values get their gradients in a launch each; else in one, which computes scores once.
    """

    forward: Tile
    of_queries: Tile
    of_keys: Tile
    apart: bool = False


TILES = {
    64: Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 2), Tile(64, 128, 8, 2)),
    128: Tiles(Tile(128, 64, 8, 2), Tile(128, 64, 8, 2), Tile(32, 128, 8, 2)),
    256: Tiles(Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(32, 128, 8, 2), apart=True),
}
"""By head width, the next power of two. For Hopper: a warp group multiplies 64 rows, so two of them share 128. Sums
stay in registers (256 wide in 128 of a thread's 255), what is fetched in 227 KiB of shared memory. Both gradients of 64
keys of 256 would fit too, but then both groups compute the same scores: six products where two launches compute five.
"""

SMALL_TILES = {
    64: Tiles(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
    128: Tiles(Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2)),
    256: Tiles(Tile(64, 32, 8, 2), Tile(64, 32, 8, 1), Tile(32, 32, 8, 1)),
}
"""The same for GPUs with less shared memory: 163 KiB (A100), 99 KiB (L4)."""

LARGE_BYTES, SMALL_BYTES = 227 * 1024, 99 * 1024
"""Shared memory of a program that these tiles may take."""


@triton.jit
def _tile(ptr, first, stride, end, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of a head from `first` on; zeros from row `end` on."""
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = first + row < end
    if WIDTH < BLOCK:
        inside = inside & (column < WIDTH)
    return tl.load(ptr + stride.to(tl.int64) * first + row * stride + column, mask=inside, other=0.0)


@triton.jit
def _store(tile, ptr, first, stride, end, ROWS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    inside = first + row < end
    if WIDTH < BLOCK:
        inside = inside & (column < WIDTH)
    at = ptr + stride.to(tl.int64) * first + row * stride + column
    tl.store(at, tile.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _score(product, inner, outer, CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    """The score of a product of query and key, and the cap's slope there.

    r = 1 / (1 + e^2x) gives tanh(x) = 1 - 2 r and its slope 1 - tanh(x)^2 = 4 r (1 - r).
    """
    score, slope = product * inner, 1.0
    if CAP:
        rest = 1.0 / (1.0 + tl.exp2(score))
        score, slope = outer - 2.0 * outer * rest, 4.0 * rest * (1.0 - rest)
    return score, slope


@triton.jit
def _lowest(positions_ptr, row, tokens, window):  # type: ignore[no-untyped-def]
    """The first token that each token sees."""
    position = tl.load(positions_ptr + row, mask=row < tokens, other=0).to(tl.int32)
    return row - tl.minimum(position, window - 1)


@triton.jit(do_not_specialize=["tokens", "group", "window"])
def _forward(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, out_ptr, log_sum_ptr, positions_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, tokens, group, window, inner, outer,
    CAP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first, head, heads = tl.program_id(0) * QUERIES, tl.program_id(1), tl.num_programs(1)
    k_ptr += head // group * k_head
    v_ptr += head // group * v_head
    row = first + tl.arange(0, QUERIES)
    low = _lowest(positions_ptr, row, tokens, window)
    end = tl.minimum(first + QUERIES, tokens)
    q = _tile(q_ptr + head * q_head, first, q_row, tokens, QUERIES, WIDTH, BLOCK)
    # Finite, so that rows which see nothing of their first tiles subtract no infinities.
    most = tl.full((QUERIES,), -1e30, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, BLOCK), tl.float32)
    for start in range(tl.min(low, 0), end, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _tile(k_ptr, start, k_row, end, KEYS, WIDTH, BLOCK)
        score, _ = _score(tl.dot(q, tl.trans(k)), inner, outer, CAP)
        seen = (key[None, :] >= low[:, None]) & (key[None, :] <= row[:, None])
        score = tl.where(seen, score, float("-inf"))
        above = tl.maximum(most, tl.max(score, 1))
        part = tl.exp2(score - above[:, None])
        shrunk = tl.exp2(most - above)
        total = total * shrunk + tl.sum(part, 1)
        v = _tile(v_ptr, start, v_row, end, KEYS, WIDTH, BLOCK)
        out = tl.dot(part.to(v.dtype), v, out * shrunk[:, None])
        most = above
    _store(out / total[:, None], out_ptr + head * WIDTH, first, heads * WIDTH, tokens, QUERIES, WIDTH, BLOCK)
    tl.store(log_sum_ptr + row * heads + head, most + tl.log2(total), mask=row < tokens)


@triton.jit(do_not_specialize=["tokens", "group", "window"])
def _of_queries(  # type: ignore[no-untyped-def]
    grad_ptr, q_ptr, k_ptr, v_ptr, out_ptr, log_sum_ptr, dot_ptr, of_q_ptr, positions_ptr,
    grad_row, grad_head, q_row, q_head, k_row, k_head, v_row, v_head, tokens, group, window, inner, outer, scale,
    CAP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    first, head, heads = tl.program_id(0) * QUERIES, tl.program_id(1), tl.num_programs(1)
    k_ptr += head // group * k_head
    v_ptr += head // group * v_head
    row = first + tl.arange(0, QUERIES)
    low = _lowest(positions_ptr, row, tokens, window)
    end = tl.minimum(first + QUERIES, tokens)
    grad = _tile(grad_ptr + head * grad_head, first, grad_row, tokens, QUERIES, WIDTH, BLOCK)
    out = _tile(out_ptr + head * WIDTH, first, heads * WIDTH, tokens, QUERIES, WIDTH, BLOCK)
    dot = tl.sum(grad.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(dot_ptr + row * heads + head, dot, mask=row < tokens)
    log_sum = tl.load(log_sum_ptr + row * heads + head, mask=row < tokens, other=float("inf"))
    q = _tile(q_ptr + head * q_head, first, q_row, tokens, QUERIES, WIDTH, BLOCK)
    of_q = tl.zeros((QUERIES, BLOCK), tl.float32)
    for start in range(tl.min(low, 0), end, KEYS):
        key = start + tl.arange(0, KEYS)
        k = _tile(k_ptr, start, k_row, end, KEYS, WIDTH, BLOCK)
        v = _tile(v_ptr, start, v_row, end, KEYS, WIDTH, BLOCK)
        score, slope = _score(tl.dot(q, tl.trans(k)), inner, outer, CAP)
        seen = (key[None, :] >= low[:, None]) & (key[None, :] <= row[:, None])
        part = tl.where(seen, tl.exp2(score - log_sum[:, None]), 0.0)
        of_score = part * slope * (tl.dot(grad, tl.trans(v)) - dot[:, None])
        of_q = tl.dot(of_score.to(k.dtype), k, of_q)
    _store(of_q * scale, of_q_ptr + head * WIDTH, first, heads * WIDTH, tokens, QUERIES, WIDTH, BLOCK)


@triton.jit(do_not_specialize=["tokens", "documents", "group", "window"])
def _of_keys(  # type: ignore[no-untyped-def]
    grad_ptr, q_ptr, k_ptr, v_ptr, log_sum_ptr, dot_ptr, of_k_ptr, of_v_ptr, positions_ptr, bounds_ptr,
    grad_row, grad_head, q_row, q_head, k_row, k_head, v_row, v_head, tokens, documents, group, window,
    inner, outer, scale,
    CAP: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    OF_K: tl.constexpr, OF_V: tl.constexpr, BOUNDS: tl.constexpr,
):  # fmt: skip
    first, head, heads = tl.program_id(0) * KEYS, tl.program_id(1), tl.num_programs(1)
    last = tl.minimum(first + KEYS, tokens) - 1
    # The last key is seen until its document or its window ends, the others no longer than that.
    end = tokens
    for start in range(0, documents, BOUNDS):
        number = 1 + start + tl.arange(0, BOUNDS)
        bound = tl.load(bounds_ptr + number, mask=number <= documents, other=0)
        end = tl.minimum(end, tl.min(tl.where(bound > last, bound, tokens), 0))
    end = tl.minimum(end, last + window)
    key = first + tl.arange(0, KEYS)
    k = _tile(k_ptr + head * k_head, first, k_row, tokens, KEYS, WIDTH, BLOCK)
    if OF_K:
        v = _tile(v_ptr + head * v_head, first, v_row, tokens, KEYS, WIDTH, BLOCK)
        of_k = tl.zeros((KEYS, BLOCK), tl.float32)
    if OF_V:
        of_v = tl.zeros((KEYS, BLOCK), tl.float32)
    for query_head in range(head * group, (head + 1) * group):
        for start in range(first, end, QUERIES):
            row = start + tl.arange(0, QUERIES)
            low = _lowest(positions_ptr, row, tokens, window)
            at = row * (heads * group) + query_head
            # What lies behind the end is seen by none: e^-infinity.
            log_sum = tl.load(log_sum_ptr + at, mask=row < end, other=float("inf"))
            q = _tile(q_ptr + query_head * q_head, start, q_row, end, QUERIES, WIDTH, BLOCK)
            grad = _tile(grad_ptr + query_head * grad_head, start, grad_row, end, QUERIES, WIDTH, BLOCK)
            # [keys, queries]: the products below take it as it is
            score, slope = _score(tl.dot(k, tl.trans(q)), inner, outer, CAP)
            seen = (key[:, None] >= low[None, :]) & (key[:, None] <= row[None, :])
            part = tl.where(seen, tl.exp2(score - log_sum[None, :]), 0.0)
            if OF_V:
                of_v = tl.dot(part.to(grad.dtype), grad, of_v)
            if OF_K:
                dot = tl.load(dot_ptr + at, mask=row < end, other=0.0)
                of_score = part * slope * (tl.dot(v, tl.trans(grad)) - dot[None, :])
                of_k = tl.dot(of_score.to(q.dtype), q, of_k)
    if OF_K:
        _store(of_k * scale, of_k_ptr + head * WIDTH, first, heads * WIDTH, tokens, KEYS, WIDTH, BLOCK)
    if OF_V:
        _store(of_v, of_v_ptr + head * WIDTH, first, heads * WIDTH, tokens, KEYS, WIDTH, BLOCK)


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, rules: Rules
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention's output, contiguous, and log-sum-exp of each query's scores, base 2. [T, query heads]"""
    tokens, heads, width = q.shape
    out = torch.empty(tokens, heads, width, dtype=q.dtype, device=q.device)
    log_sum = torch.empty(tokens, heads, dtype=torch.float32, device=q.device)
    tile = _tiles(width, q.device).forward
    _forward[(triton.cdiv(tokens, tile.queries), heads)](
        q, k, v, out, log_sum, layout.positions, *_strides(q, k, v),
        tokens, heads // k.shape[1], _window(layout, rules), *_factors(rules), **_constants(width, tile, rules),
    )  # fmt: skip
    return out, log_sum


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    *,
    layout: Layout,
    rules: Rules,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v, contiguous."""
    tokens, heads, width = q.shape
    keys, group = k.shape[1], heads // k.shape[1]
    of_q, of_k, of_v = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k, v))
    dot = torch.empty_like(log_sum)  # sums of grad * out, which the first kernel leaves for the second
    tiles, window, factors = _tiles(width, q.device), _window(layout, rules), _factors(rules)
    strides = _strides(grad, q, k, v)
    _of_queries[(triton.cdiv(tokens, tiles.of_queries.queries), heads)](
        grad, q, k, v, out, log_sum, dot, of_q, layout.positions, *strides, tokens, group, window,
        *factors, rules.scale, **_constants(width, tiles.of_queries, rules),
    )  # fmt: skip
    for wanted in ((True, False), (False, True)) if tiles.apart else ((True, True),):
        _of_keys[(triton.cdiv(tokens, tiles.of_keys.keys), keys)](
            grad, q, k, v, log_sum, dot, of_k, of_v, layout.positions, layout.bounds, *strides,
            tokens, len(layout.lengths), group, window, *factors, rules.scale,
            OF_K=wanted[0], OF_V=wanted[1], BOUNDS=BOUNDS, **_constants(width, tiles.of_keys, rules),
        )  # fmt: skip
    return of_q, of_k, of_v


def takes(device: torch.device) -> bool:
    """Whether the device has the shared memory of the small tiles."""
    return _shared_bytes(device) >= SMALL_BYTES


@functools.cache
def _shared_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return LARGE_BYTES  # the interpreter has no limit
    properties: Any = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin)


def _block(width: int) -> int:
    return max(16, int(triton.next_power_of_2(width)))


def _tiles(width: int, device: torch.device) -> Tiles:
    table = TILES if _shared_bytes(device) >= LARGE_BYTES else SMALL_TILES
    return table[max(min(table), _block(width))]


def _constants(width: int, tile: Tile, rules: Rules) -> dict[str, Any]:
    return {
        "CAP": rules.cap is not None, "WIDTH": width, "BLOCK": _block(width), "QUERIES": tile.queries,
        "KEYS": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip


def _strides(*tensors: torch.Tensor) -> tuple[int, ...]:
    """Of rows and heads; the numbers of a head lie side by side."""
    return tuple(stride for tensor in tensors for stride in tensor.stride()[:2])


def _window(layout: Layout, rules: Rules) -> int:
    return layout.longest if rules.window is None else min(rules.window, layout.longest)


def _factors(rules: Rules) -> tuple[float, float]:
    """Of a product before the cap, and of its tanh; see `_score`."""
    if rules.cap is None:
        return rules.scale * LOG2_E, 1.0
    return 2 * rules.scale / rules.cap * LOG2_E, rules.cap * LOG2_E
