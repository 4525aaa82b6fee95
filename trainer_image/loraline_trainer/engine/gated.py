"""The gated product of the MLP: act(gate) * up, with act SiLU (SwiGLU) or GELU by tanh (GeGLU).

Letters: T tokens, I width of gate and of up, which lie side by side in [T, 2 I].
"""

from __future__ import annotations

import enum

import torch

from loraline_trainer.engine import switches


class Activation(enum.Enum):
    """The function of the gate."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


def gated(gate_up: torch.Tensor, activation: Activation, out: torch.Tensor) -> None:
    """Writes act(gate) * up into out. [T, I]"""
    if _by_kernel(gate_up):
        from loraline_trainer.engine.kernels import gated as kernels

        kernels.gated(gate_up, activation, out)
        return
    gate, up = gate_up.float().chunk(2, dim=-1)
    out.copy_(_act(gate, activation) * up)


def gated_backward(grad: torch.Tensor, gate_up: torch.Tensor, activation: Activation) -> None:
    """Puts the gradients of gate and up in their place, and act(gate) * up in the place of its gradient. [T, I]"""
    if _by_kernel(gate_up):
        from loraline_trainer.engine.kernels import gated as kernels

        kernels.gated_backward(grad, gate_up, activation)
        return
    gate, up = gate_up.float().chunk(2, dim=-1)
    wide = grad.float()
    active, slope = _act(gate, activation), _slope(gate, activation)
    width = grad.shape[1]
    of_gate, of_up, product = wide * up * slope, wide * active, active * up  # before any of them is overwritten
    gate_up[:, :width] = of_gate
    gate_up[:, width:] = of_up
    grad.copy_(product)


def _act(gate: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation is Activation.SILU:
        return torch.nn.functional.silu(gate)
    return torch.nn.functional.gelu(gate, approximate="tanh")


ROOT, CUBE = 0.7978845608028654, 0.044715
"""GELU by tanh: x / 2 (1 + tanh(ROOT (x + CUBE x^3))), ROOT = sqrt(2 / pi). Source: arXiv 1606.08415, section 2."""


def _slope(gate: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation is Activation.SILU:
        sigmoid = torch.sigmoid(gate)
        return sigmoid * (1 + gate * (1 - sigmoid))
    inner = torch.tanh(ROOT * (gate + CUBE * gate**3))
    return 0.5 * (1 + inner) + 0.5 * gate * (1 - inner * inner) * ROOT * (1 + 3 * CUBE * gate * gate)


def _by_kernel(tensor: torch.Tensor) -> bool:
    return switches.now().kernels and switches.triton_runs(tensor)
