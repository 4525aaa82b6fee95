"""The kernel of `cross_entropy`: a program reads one token's logits twice and writes their gradient over them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 8192


@triton.jit
def _capped(logit, cap, CAP: tl.constexpr):  # type: ignore[no-untyped-def]
    slope = 1.0
    if CAP:
        tanh = 1 - 2 / (tl.exp(2 * logit / cap) + 1)
        logit = cap * tanh
        slope = 1 - tanh * tanh
    return logit, slope


@triton.jit
def _loss_and_gradient(  # type: ignore[no-untyped-def]
    logits_ptr, targets_ptr, losses_ptr, stride, vocabulary, cap, CAP: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = logits_ptr + row * stride
    target = tl.load(targets_ptr + row)
    # Largest logit and sum of exponentials in one pass: the sum is rescaled when a larger one comes.
    # Each lane keeps its own until the end.
    largest = tl.full((BLOCK_COLUMNS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_COLUMNS,), tl.float32)
    for start in range(0, vocabulary, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = column < vocabulary
        logit = tl.load(at + column, mask=inside, other=0.0).to(tl.float32)
        logit, _ = _capped(logit, cap, CAP)
        logit = tl.where(inside, logit, float("-inf"))
        above = tl.maximum(largest, logit)
        # A lane beyond a vocabulary smaller than the block has only -inf.
        shift = tl.where(above == float("-inf"), 0.0, above)
        total = total * tl.exp(largest - shift) + tl.exp(logit - shift)
        largest = above
    most = tl.max(largest, 0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(largest - most), 0))
    wanted, _ = _capped(tl.load(at + target).to(tl.float32), cap, CAP)
    tl.store(losses_ptr + row, log_sum - wanted)
    for start in range(0, vocabulary, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        inside = column < vocabulary
        logit = tl.load(at + column, mask=inside, other=0.0).to(tl.float32)
        logit, slope = _capped(logit, cap, CAP)
        grad = (tl.exp(logit - log_sum) - tl.where(column == target, 1.0, 0.0)) * slope
        tl.store(at + column, grad.to(logits_ptr.dtype.element_ty), mask=inside)


def loss_and_gradient(logits: torch.Tensor, targets: torch.Tensor, cap: float | None, losses: torch.Tensor) -> None:
    """See `cross_entropy._loss_and_gradient`."""
    _loss_and_gradient[(logits.shape[0],)](
        logits, targets, losses, logits.stride(0), logits.shape[1], cap or 1.0,
        CAP=cap is not None, BLOCK_COLUMNS=min(BLOCK, triton.next_power_of_2(logits.shape[1])), num_warps=16,
    )  # fmt: skip
