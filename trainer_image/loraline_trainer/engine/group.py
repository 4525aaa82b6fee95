"""Frozen linear layers that read the same input, as one product with their adapters folded in.

Letters: T tokens, N rows of all the layers together, K columns, F adapter columns (the ranks' sum, padded).
One matrix serves both ways:

        M = [ W  B ]   N rows          y  = [x | u] [W | B]^T   with u = x A^T, A scaled by alpha / rank
            [ A  . ]   F rows          dx = [g | v] [W ; A]     with v = g B

so the adapter costs 64 columns more of a product, where products of its own would pass y and dx through memory twice.
W is dequantized into M for each product; B is block-diagonal, since each layer reads its own part of u. A bias is one
more column of M beside a column of ones in u. dA = v^T x and dB = g^T u are summed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from loraline_trainer.engine import policy, switches
from loraline_trainer.engine.nf4 import Frozen

if TYPE_CHECKING:
    from loraline_trainer.engine.kernels.group import Launch

WIDE = 4
"""With this many times more rows than columns, g W and g B are one product, and v A is added to g W afterwards: a pass
over g, which v = g B by itself needs, costs more than one over dx. Gate and up of Llama 3 have 7 times more."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA of one layer: y += scale * x a^T b^T.

    Attributes:
        a, b: PEFT's own parameters. [rank, K], [rows, rank]
    """

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scale: float

    @property
    def rank(self) -> int:
        """Its rank."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class Linear:
    """One layer of a group."""

    weight: Frozen
    bias: torch.Tensor | None
    adapter: Adapter | None


@dataclass(frozen=True, slots=True)
class Part:
    """Where a layer and its adapter lie in the group's matrix."""

    linear: Linear
    rows: slice
    ranks: slice


class Group:
    """Linear layers with one input."""

    def __init__(self, linears: list[Linear]) -> None:
        self.parts: list[Part] = []
        row = rank = 0
        for linear in linears:
            height = linear.weight.shape[0]
            own = linear.adapter.rank if linear.adapter is not None else 0
            self.parts.append(Part(linear, slice(row, row + height), slice(rank, rank + own)))
            row, rank = row + height, rank + own
        self.rows = row
        self.columns = linears[0].weight.shape[1]
        self.ranks = rank
        self.has_bias = any(linear.bias is not None for linear in linears)
        self.fold = policy.padded_rank(rank + int(self.has_bias))
        self.launch: Launch | None = None  # of `kernels.group`, made once
        self.launches: bool | None = None  # whether that takes this group

    @property
    def adapters(self) -> list[Adapter]:
        """The adapters in the order of the parts."""
        return [part.linear.adapter for part in self.parts if part.linear.adapter is not None]

    def fingerprint(self) -> tuple[int, ...]:
        """Where the adapters lie: a trainer may put other memory under a parameter."""
        return tuple(parameter.data_ptr() for adapter in self.adapters for parameter in (adapter.a, adapter.b))

    @property
    def room(self) -> int:
        """Columns that buffers of x, y and their gradients have behind their own: the adapter's."""
        return self.fold

    @property
    def matrix_elements(self) -> int:
        """Elements of M."""
        return (self.rows + self.fold) * (self.columns + self.fold)

    def gradient_matrix(self, scratch: torch.Tensor) -> torch.Tensor:
        """What `backward` reads: the same M."""
        return self.matrix(scratch)

    def matrix(self, scratch: torch.Tensor) -> torch.Tensor:
        """Assembles M in the scratch buffer. [N + F, K + F]"""
        matrix = scratch[: self.matrix_elements].view(self.rows + self.fold, self.columns + self.fold)
        if switches.now().nf4_kernel and switches.triton_runs(matrix):
            from loraline_trainer.engine.kernels import group as kernels

            if kernels.takes(self):
                kernels.assemble(self, matrix)
                return matrix
        for part in self.parts:
            part.linear.weight.place(matrix[part.rows, : self.columns])
        if self.fold:
            self.place_adapters(matrix[self.rows :, : self.columns], matrix[: self.rows, self.columns :])
        return matrix

    def place_adapters(self, all_a: torch.Tensor, all_b: torch.Tensor) -> None:
        """Writes the adapters: A below each other [F, K], B block-diagonal [N, F], with the biases' column."""
        all_a.zero_()
        all_b.zero_()
        for part in self.parts:
            if part.linear.bias is not None:
                all_b[part.rows, self.ranks].copy_(part.linear.bias)
            adapter = part.linear.adapter
            if adapter is not None:
                all_b[part.rows, part.ranks].copy_(adapter.b.detach())
                all_a[part.ranks].copy_(adapter.a.detach() * adapter.scale)

    def inner(self, matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """u = x A^T for an x [T, K] without columns to spare. [T, F]"""
        inner = x @ matrix[self.rows :, : self.columns].t()
        if self.has_bias:
            inner[:, self.ranks] = 1
        return inner

    def forward(self, matrix: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor | None:
        """Writes y into out [T, N]; returns u [T, F], which the backward pass needs.

        Args:
            x: [T, K + F]; the last F columns are filled here.
        """
        if not self.fold:
            torch.mm(x, matrix.t(), out=out)
            return None
        weight, adapter_b = matrix[: self.rows, : self.columns], matrix[: self.rows, self.columns :]
        inner = x[:, self.columns :]
        torch.mm(x[:, : self.columns], matrix[self.rows :, : self.columns].t(), out=inner)
        if self.has_bias:
            inner[:, self.ranks].fill_(1)
        if switches.now().fold:
            torch.mm(x, matrix[: self.rows].t(), out=out)
        else:
            torch.mm(x[:, : self.columns], weight.t(), out=out)
            out.addmm_(inner, adapter_b.t())
        return inner.clone()

    def backward(
        self, matrix: torch.Tensor, grad: torch.Tensor, *, wants_input: bool = True
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The gradient of x [T, K], or None when nobody wants it, and v [T, F].

        Args:
            grad: of y, and room for v behind it. [T, N + F]
        """
        rows, columns = self.rows, self.columns
        if not self.fold:
            return grad @ matrix if wants_input else None, grad[:, rows:]
        if wants_input and switches.now().wide_gradient and rows > WIDE * columns:
            both = grad[:, :rows] @ matrix[:rows]  # [g W | g B]
            of_x, outer = both[:, :columns], both[:, columns:]
            return of_x.addmm_(outer, matrix[rows:, :columns]), outer
        outer = grad[:, rows:]
        torch.mm(grad[:, :rows], matrix[:rows, columns:], out=outer)
        if not wants_input:
            return None, outer
        if switches.now().fold:
            return grad @ matrix[:, :columns], outer
        return torch.addmm(grad[:, :rows] @ matrix[:rows, :columns], outer, matrix[rows:, :columns]), outer

    def adapter_gradients(
        self,
        grad: torch.Tensor,
        outer: torch.Tensor,
        inner: torch.Tensor | None,
        x: torch.Tensor,
        *,
        row_scale: torch.Tensor | None = None,
        gain: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """dA and dB of each adapter, in float32.

        The input may be given as (x * row_scale) * gain, so that the output of a norm need not be rebuilt:
        v^T (x * row_scale * gain) = (v * row_scale)^T x * gain.

        Args:
            grad: of y in the first N columns. [T, N + F]
            outer: v as `backward` gave it. [T, F]
            inner: u as `forward` gave it. [T, F]
            row_scale: [T]
            gain: [K]
        """
        if not self.ranks or inner is None:
            return []
        if row_scale is not None:
            outer = (outer * row_scale[:, None]).to(grad.dtype)
        of_a = product_float32(outer.t(), x)
        if gain is not None:
            of_a = of_a.mul_(gain)
        of_b = product_float32(grad[:, : self.rows].t(), inner)
        found: list[torch.Tensor] = []
        for part in self.parts:
            adapter = part.linear.adapter
            if adapter is not None:
                found.append(of_a[part.ranks] * adapter.scale)
                found.append(of_b[part.rows, part.ranks].contiguous())
        return found


def product_float32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product with a float32 result: nothing is rounded after the sum."""
    if left.dtype is torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
