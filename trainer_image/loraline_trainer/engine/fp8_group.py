"""A group whose frozen product is in FP8 (see `fp8`); its adapters stay in the type of the activations.

They cannot ride in that product as `Group`'s do, for their own rounding would then be that of FP8, so buffers have no
room for them: u B^T and v A are products of their own, added to what the frozen one wrote. What `matrix` assembles is
one block of memory, in this order:

        frozen weight in e4m3: [N, K], or for the gradient its transpose [K, N]
        A of all layers [F, K], B of all layers [N, F]
"""

from __future__ import annotations

import torch

from loraline_trainer.engine import fp8, switches
from loraline_trainer.engine.fp8 import Scales
from loraline_trainer.engine.group import Group, Linear


class Fp8Group(Group):
    """Linear layers with one input, multiplied in FP8."""

    def __init__(self, linears: list[Linear]) -> None:
        super().__init__(linears)
        self._scales = _scales_of(linears)

    @property
    def room(self) -> int:
        """None: nothing rides in the product."""
        return 0

    @property
    def matrix_elements(self) -> int:
        """Elements of two bytes or more."""
        return self.rows * self.columns // 2 + self.fold * (self.rows + self.columns)

    def matrix(self, scratch: torch.Tensor) -> torch.Tensor:
        """What `forward` reads, in the scratch buffer."""
        weight = self._weight(scratch).view(self.rows, self.columns)
        for part in self.parts:
            fp8.place_rows(part.linear.weight, self._of_part(part.rows), weight[part.rows])
        return self._with_adapters(scratch)

    def gradient_matrix(self, scratch: torch.Tensor) -> torch.Tensor:
        """What `backward` reads, in the scratch buffer."""
        weight = self._weight(scratch).view(self.columns, self.rows)
        for part in self.parts:
            fp8.place_columns(part.linear.weight, self._of_part(part.rows), weight[:, part.rows])
        return self._with_adapters(scratch)

    def inner(self, matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """u = x A^T. [T, F]"""
        inner = x @ self._all_a(matrix).t()
        if self.has_bias:
            inner[:, self.ranks] = 1
        return inner

    def forward(self, matrix: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor | None:
        """Writes y into out [T, N]; returns u [T, F].

        Args:
            x: [T, K]
        """
        weight = self._weight(matrix).view(self.rows, self.columns)
        fp8.product(*fp8.quantized(x), weight, self._scales.of_rows, out)
        if not self.fold:
            return None
        inner = self.inner(matrix, x)
        out.addmm_(inner, self._all_b(matrix).t())
        return inner

    def backward(
        self, matrix: torch.Tensor, grad: torch.Tensor, *, wants_input: bool = True
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """The gradient of x [T, K], or None when nobody wants it, and v [T, F].

        Args:
            grad: of y in the first N columns. [T, N] or wider
        """
        grad = grad[:, : self.rows]
        outer = grad @ self._all_b(matrix)
        if not wants_input:
            return None, outer
        of_x = torch.empty(grad.shape[0], self.columns, dtype=grad.dtype, device=grad.device)
        weight = self._weight(matrix).view(self.columns, self.rows)
        fp8.product(*fp8.quantized(grad), weight, self._scales.of_columns, of_x)
        return of_x.addmm_(outer, self._all_a(matrix)), outer

    def _with_adapters(self, memory: torch.Tensor) -> torch.Tensor:
        if not self.fold:
            return memory
        all_a, all_b = self._all_a(memory), self._all_b(memory)
        if switches.now().nf4_kernel and switches.triton_runs(memory):
            from loraline_trainer.engine.kernels import group as kernels

            if kernels.takes(self):
                kernels.assemble_border(self, all_a, all_b)
                return memory
        self.place_adapters(all_a, all_b)
        return memory

    def _weight(self, memory: torch.Tensor) -> torch.Tensor:
        """The frozen weight's bytes. [N * K]"""
        return memory[: self.rows * self.columns // memory.element_size()].view(fp8.TYPE)

    def _all_a(self, memory: torch.Tensor) -> torch.Tensor:
        begins = self.rows * self.columns // memory.element_size()
        return memory[begins : begins + self.fold * self.columns].view(self.fold, self.columns)

    def _all_b(self, memory: torch.Tensor) -> torch.Tensor:
        begins = self.rows * self.columns // memory.element_size() + self.fold * self.columns
        return memory[begins : begins + self.fold * self.rows].view(self.rows, self.fold)

    def _of_part(self, rows: slice) -> Scales:
        """The scales of a layer; those of the columns are the group's, for one product sums over all its rows."""
        return Scales(self._scales.of_rows[rows], self._scales.of_columns)


def _scales_of(linears: list[Linear]) -> Scales:
    each = [fp8.scales(linear.weight) for linear in linears]
    of_columns = torch.stack([one.of_columns for one in each]).amax(0)
    return Scales(torch.cat([one.of_rows for one in each]), of_columns)
