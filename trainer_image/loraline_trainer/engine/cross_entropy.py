"""Cross entropy from hidden states: logits exist for a tile of tokens at a time, and never again.

The gradient of the hidden states is computed in the forward pass, so the head's product is done twice, not three times;
the head is frozen. Letters: C counted tokens, H width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from loraline_trainer.engine import switches

TILE_BYTES = 512 * 2**20
"""Logits of a tile: 2,048 tokens at a vocabulary of 128,256 in bfloat16."""


@dataclass(frozen=True, slots=True)
class Head:
    """The frozen output layer.

    Attributes:
        weight: [V, H]
        cap: a logit l becomes cap * tanh(l / cap) (Gemma 2).
    """

    weight: torch.Tensor
    cap: float | None = None


def summed(hidden: torch.Tensor, targets: torch.Tensor, head: Head, tile_bytes: int = TILE_BYTES) -> torch.Tensor:
    """The summed loss of C tokens in nats, float32.

    Args:
        hidden: of the tokens that predict. [C, H]
        targets: what they should predict. [C]
        tile_bytes: most bytes of logits at a time.
    """
    if torch.is_grad_enabled() and hidden.requires_grad:
        total: torch.Tensor = _Summed.apply(hidden, targets, head, tile_bytes)  # type: ignore[no-untyped-call]
        return total
    return _tiles(hidden, targets, head, tile_bytes, None)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, tile_bytes: int) -> torch.Tensor:
        grad = torch.empty_like(hidden)
        total = _tiles(hidden, targets, head, tile_bytes, grad)
        ctx.grad = grad
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (factor,) = grads
        grad, ctx.grad = ctx.grad, None
        return grad.mul_(factor), None, None, None


def _tiles(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, tile_bytes: int, grad: torch.Tensor | None
) -> torch.Tensor:
    """The sum over the tiles; fills the gradient unless it is None."""
    count, vocabulary = hidden.shape[0], head.weight.shape[0]
    tile = max(1, min(count, tile_bytes // (vocabulary * hidden.element_size())))
    tile = -(-count // -(-count // tile)) if count else 1  # of equal size, as far as may be
    losses = torch.zeros(count, dtype=torch.float32, device=hidden.device)
    weight = head.weight.to(hidden.dtype)
    for start in range(0, count, tile):
        part = slice(start, min(start + tile, count))
        logits = hidden[part] @ weight.t()
        if grad is None:
            _loss(logits, targets[part], head.cap, losses[part])
        else:
            _loss_and_gradient(logits, targets[part], head.cap, losses[part])
            torch.mm(logits, weight, out=grad[part])
    return losses.sum()


def _loss(logits: torch.Tensor, targets: torch.Tensor, cap: float | None, losses: torch.Tensor) -> None:
    """Writes each token's loss; a kernel may overwrite the logits."""
    if switches.now().loss_kernel and switches.triton_runs(logits):
        _loss_and_gradient(logits, targets, cap, losses)
        return
    wide = logits.float()
    if cap is not None:
        wide = torch.tanh(wide / cap).mul_(cap)
    losses.copy_(torch.nn.functional.cross_entropy(wide, targets, reduction="none"))


def _loss_and_gradient(logits: torch.Tensor, targets: torch.Tensor, cap: float | None, losses: torch.Tensor) -> None:
    """Writes each token's loss, and puts the gradient of the logits in their place."""
    if switches.now().loss_kernel and switches.triton_runs(logits):
        from loraline_trainer.engine.kernels import cross_entropy as kernels

        kernels.loss_and_gradient(logits, targets, cap, losses)
        return
    wide = logits.float()
    slope = None
    if cap is not None:
        tanh = torch.tanh(wide / cap)
        wide, slope = cap * tanh, 1 - tanh * tanh
    log_probabilities = torch.log_softmax(wide, dim=-1)
    index = targets[:, None]
    losses.copy_(-log_probabilities.gather(1, index)[:, 0])
    grad = log_probabilities.exp_()
    grad.scatter_add_(1, index, torch.full_like(index, -1, dtype=grad.dtype))
    if slope is not None:
        grad.mul_(slope)
    logits.copy_(grad)
