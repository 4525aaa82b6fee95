"""Products of frozen weights in FP8: e4m3 on both sides, a scale for each row of the activations and of the weight.

Twice the rate of bfloat16 on Hopper and Ada GPUs. e4m3 keeps three bits of a mantissa: a product is off by 3.7 % of its
norm at random (NF4 itself by 9.2 %), so it is a recipe's choice, not a default. Adapters, attention, norms and the loss
stay as they are.

Letters: T tokens, N rows (outputs) and K columns (inputs) of a weight. The matrix units read both sides along the
summed dimension, so a forward product takes W by rows and the gradient of the input takes it by columns:

    y  = (x / s_x) (W / s_row)^T * s_x s_row        dx = (g / s_g) (W^T / s_column)^T * s_g s_column

Weights go from NF4 to FP8 in one pass, without bfloat16 between them. Their scales come from those of the NF4 blocks,
for the largest weight of a block is its scale times the largest code, 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loraline_trainer.engine import nf4, switches
from loraline_trainer.engine.nf4 import Frozen, Nf4

LARGEST = 448.0
"""The largest number of e4m3 (arXiv 2209.05433, table 1)."""

SMALLEST_SCALE = 1e-12
"""Of a row of zeros, which has no scale of its own."""

MULTIPLE = 16
"""Rows and columns of a weight come in multiples of it: the matrix units load 16 bytes at a time."""

TYPE = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class Scales:
    """What the numbers of a weight are divided by.

    Attributes:
        of_rows: [N]
        of_columns: [K]
    """

    of_rows: torch.Tensor
    of_columns: torch.Tensor


def takes(weight: Frozen) -> bool:
    """Whether its products can be in FP8."""
    return all(size % MULTIPLE == 0 for size in weight.shape) and not _is_cut(weight)


def _is_cut(weight: Frozen) -> bool:
    return isinstance(weight, Nf4) and weight.shape[1] % weight.block != 0  # a block that spans two rows


def is_supported(device: torch.device) -> bool:
    """Whether the device has matrix units for FP8: compute capability 8.9 (Ada), 9.0 (Hopper) and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def scales(weight: Frozen) -> Scales:
    """The scales of a weight, which bring its largest numbers to the largest of e4m3."""
    if isinstance(weight, Nf4):
        largest = (nf4.block_scales(weight) * weight.code.abs().max()).abs().view(weight.shape[0], -1)  # [N, K / block]
        rows, columns = largest.amax(1), largest.amax(0).repeat_interleave(weight.block)
    else:
        whole = _whole(weight)
        rows, columns = whole.abs().amax(1), whole.abs().amax(0)
    return Scales(*(one.clamp(min=SMALLEST_SCALE) / LARGEST for one in (rows, columns)))


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations in FP8, [T, K], and the scale of each row, [T, 1].

    Args:
        x: [T, K], whose rows may lie apart.
    """
    if _by_kernel(x):
        from loraline_trainer.engine.kernels import fp8 as kernels

        return kernels.quantized(x)
    wide = x.float()
    scale = wide.abs().amax(1, keepdim=True).clamp(min=SMALLEST_SCALE) / LARGEST
    return (wide / scale).to(TYPE), scale


def place_rows(weight: Frozen, scales: Scales, out: torch.Tensor) -> None:
    """Writes W / s_row into out [N, K], contiguous."""
    if isinstance(weight, Nf4) and _by_kernel(weight.packed):
        from loraline_trainer.engine.kernels import fp8 as kernels

        kernels.place_rows(weight, scales.of_rows, out)
        return
    out.copy_((_whole(weight) / scales.of_rows[:, None]).to(TYPE))


def place_columns(weight: Frozen, scales: Scales, out: torch.Tensor) -> None:
    """Writes (W / s_column)^T into out [K, N], whose rows may lie apart."""
    if isinstance(weight, Nf4) and _by_kernel(weight.packed):
        from loraline_trainer.engine.kernels import fp8 as kernels

        kernels.place_columns(weight, scales.of_columns, out)
        return
    out.copy_((_whole(weight) / scales.of_columns).to(TYPE).t())


def product(
    x: torch.Tensor, x_scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """x W^T in float32, rounded once, into out. [T, N]

    Args:
        x, x_scale: as `quantized` gives them. [T, K], [T, 1]
        weight, weight_scale: [N, K], [N]
    """
    torch._scaled_mm(
        x, weight.t(), scale_a=x_scale, scale_b=weight_scale[None], out_dtype=out.dtype, use_fast_accum=True, out=out
    )
    return out


def _whole(weight: Frozen) -> torch.Tensor:
    """The weight in float32. [N, K]"""
    if isinstance(weight, Nf4):
        return nf4.dequantized(weight).float()
    whole = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
    weight.place(whole)
    return whole


def _by_kernel(tensor: torch.Tensor) -> bool:
    return switches.now().nf4_kernel and switches.triton_runs(tensor)
