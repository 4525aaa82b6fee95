"""RMS norm, with the residual sum before it and the residual gradient behind it in the same pass.

Letters: T tokens, H width. y = x / rms(x) * (w + plus), in float32, rounded once; `plus` is 1 for Gemma.
Buffers may have longer rows than H: products read adapter columns behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loraline_trainer.engine import switches


@dataclass(frozen=True, slots=True)
class Norm:
    """Weight [H] and constants of one RMS norm."""

    weight: torch.Tensor
    eps: float
    plus: float = 0.0

    def gain(self) -> torch.Tensor:
        """What the normalized input is multiplied with, in float32. [H]"""
        return self.weight.float() + self.plus


def add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, norm: Norm, out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Writes norm(x + delta) into out [T, H]; returns x + delta [T, H] and 1 / rms [T]."""
    if _by_kernel(x):
        from loraline_trainer.engine.kernels import norm as kernels

        return kernels.add_norm(x, delta, norm, out)
    total = x if delta is None else x + delta
    wide = total.float()
    scale = torch.rsqrt(wide.square().mean(-1) + norm.eps)
    out.copy_(wide * scale[:, None] * norm.gain())
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
    """Writes residual + d norm / d x * grad into out [T, H]; out may be the residual itself.

    Args:
        grad: gradient of the norm's output. [T, H]
        scale: 1 / rms(x). [T]
    """
    if _by_kernel(x):
        from loraline_trainer.engine.kernels import norm as kernels

        kernels.norm_backward(grad, x, scale, norm, residual=residual, out=out)
        return
    normalized = x.float() * scale[:, None]
    inner = grad.float() * norm.gain()
    result = (inner - normalized * (inner * normalized).mean(-1, keepdim=True)) * scale[:, None]
    out.copy_(result if residual is None else residual.float() + result)


def _by_kernel(tensor: torch.Tensor) -> bool:
    return switches.now().kernels and switches.triton_runs(tensor)
