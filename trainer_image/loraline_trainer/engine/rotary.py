"""The rotary embedding of queries and keys, behind a norm of each head where the model has one (Qwen3, Gemma 3).

Letters: T tokens, D head width, R rotated width (R <= D; Phi-4-mini rotates three quarters).
A head x = [x1 | x2 | rest] of widths R/2, R/2, D - R becomes [x1 cos - x2 sin | x2 cos + x1 sin | rest].
cos and sin come from the model's own rotary module, so that every kind of scaling is the model's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loraline_trainer.engine import switches
from loraline_trainer.engine.norm import Norm


@dataclass(frozen=True, slots=True)
class Angles:
    """cos and sin of every token's angles in float32. [T, R / 2]"""

    cos: torch.Tensor
    sin: torch.Tensor


def angles(cos: torch.Tensor, sin: torch.Tensor) -> Angles:
    """Of a rotary module's output, whose halves are equal. [..., T, R]"""
    half = cos.shape[-1] // 2
    return Angles(
        cos.reshape(-1, 2 * half)[:, :half].float().contiguous(),
        sin.reshape(-1, 2 * half)[:, :half].float().contiguous(),
    )


def rotate(heads: torch.Tensor, turn: Angles, norm: Norm | None, out: torch.Tensor) -> None:
    """Writes the rotated heads into out; out may be heads itself. [T, heads, D]"""
    if _by_kernel(heads):
        from loraline_trainer.engine.kernels import rotary as kernels

        kernels.rotate(heads, turn, norm, out)
        return
    wide = heads.float()
    if norm is not None:
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps) * norm.gain()
    out.copy_(_turned(wide, turn.cos, turn.sin))


def rotate_backward(
    grad: torch.Tensor, heads: torch.Tensor, turn: Angles, norm: Norm | None, out: torch.Tensor
) -> None:
    """Writes the gradient of the heads into out, which may be heads itself. [T, heads, D]

    Args:
        heads: as they came into `rotate`; only read when there is a norm.
    """
    if _by_kernel(heads):
        from loraline_trainer.engine.kernels import rotary as kernels

        kernels.rotate_backward(grad, heads, turn, norm, out)
        return
    back = _turned(grad.float(), turn.cos, -turn.sin)
    if norm is not None:
        wide = heads.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
        normalized, inner = wide * scale, back * norm.gain()
        back = (inner - normalized * (inner * normalized).mean(-1, keepdim=True)) * scale
    out.copy_(back)


def _turned(wide: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def _by_kernel(tensor: torch.Tensor) -> bool:
    return switches.now().kernels and switches.triton_runs(tensor)
