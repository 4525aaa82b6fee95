"""Every kernel of the engine against its torch reference, with fresh random inputs and poisoned outputs.

Runs on a GPU, and under TRITON_INTERPRET=1 on a CPU. The reference computes in float32 from the same inputs, so a
kernel may differ by the rounding of its output and by the order of its sums.

    TRITON_INTERPRET=1 python -m bench.gpu.kernel_checks
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from loraline_trainer.engine import (
    attention,
    cross_entropy,
    fp8,
    fp8_group,
    gated,
    group,
    layout,
    nf4,
    norm,
    rotary,
    switches,
)
from loraline_trainer.engine.gated import Activation
from loraline_trainer.engine.norm import Norm

TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-2 if switches.INTERPRETED else 3e-3}
"""Of ||kernel - reference|| / ||reference||: bfloat16 rounds to 2^-9; Triton's interpreter cuts it off at 2^-8."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison; NaN never passes."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it is equal but for rounding."""
        return self.error <= self.tolerance


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """||found - wanted|| / ||wanted||"""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))


def poisoned(*shape: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """An output that shows what was not written."""
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


Both = Callable[[], list[torch.Tensor]]


def compared(name: str, run: Both, dtype: torch.dtype) -> Iterator[Check]:
    """The same computation with kernels and without."""
    with switches.switched(kernels=False, nf4_kernel=False, loss_kernel=False):
        wanted = run()
    found = run()
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        yield Check(f"{name} {str(dtype)[6:]} output {number}", error(one, other), TOLERANCES[dtype])


SEVERAL = (70, 1, 30, 129, 3)
ATTENTIONS = {
    "of one document": ((2, 1, 256), (150,), attention.Rules(0.06, cap=2.0)),
    "of several documents": ((4, 2, 32), SEVERAL, attention.Rules(0.2, cap=2.0)),
    "of several documents in a window": ((2, 1, 96), SEVERAL, attention.Rules(0.1, window=40, cap=2.0)),
    "at the cap": ((2, 2, 64), (130, 5), attention.Rules(8.0, cap=2.0)),
    "without a cap": ((3, 1, 128), SEVERAL, attention.Rules(0.1, window=100)),
}
"""Heads of queries, of keys, and their width; lengths of documents."""

HALF_ATTENTIONS = ("of several documents", "at the cap")
"""Those that are done in float16 too."""


def norms(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Norms with and without a sum before them, forward and backward, for strided outputs."""
    for width, plus in ((64, 0.0), (100, 1.0), (4096, 0.0)):
        x, delta, grad, residual = (torch.randn(7, width, device=device, dtype=dtype) for _ in range(4))
        rule = Norm(torch.randn(width, device=device, dtype=dtype), 1e-5, plus)
        for added in (None, delta):

            def forward(
                added: torch.Tensor | None = added, x: torch.Tensor = x, rule: Norm = rule
            ) -> list[torch.Tensor]:
                out = poisoned(7, x.shape[1] + 64, dtype=dtype, device=device)[:, : x.shape[1]]
                total, scale = norm.add_norm(x, added, rule, out)
                return [out, total, scale]

            yield from compared(f"add_norm {width}", forward, dtype)
        scale = torch.rsqrt(x.float().square().mean(-1) + 1e-5)
        for with_residual in (False, True):

            def backward(  # noqa: PLR0917 - bound here, for the loop goes on
                with_residual: bool = with_residual, x: torch.Tensor = x, grad: torch.Tensor = grad,
                scale: torch.Tensor = scale, rule: Norm = rule, residual: torch.Tensor = residual,
            ) -> list[torch.Tensor]:  # fmt: skip
                wide = poisoned(7, x.shape[1] + 64, dtype=dtype, device=device)
                out = wide[:, : x.shape[1]]
                if with_residual:
                    out.copy_(residual)
                norm.norm_backward(grad, x, scale, rule, residual=out if with_residual else None, out=out)
                return [out]

            yield from compared(f"norm_backward {width}", backward, dtype)


def rotations(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Whole and partial rotation, with and without a norm of the heads, in place and not."""
    for width, rotated, heads in ((64, 64, 5), (96, 72, 12), (128, 128, 40)):
        turn = rotary.Angles(*(torch.randn(6, rotated // 2, device=device) for _ in range(2)))
        x = torch.randn(6, heads * width + 64, device=device, dtype=dtype)
        grad = torch.randn(6, heads, width, device=device, dtype=dtype)
        for rule in (None, Norm(torch.randn(width, device=device, dtype=dtype), 1e-6, 1.0)):

            def forward(
                x: torch.Tensor = x,
                turn: rotary.Angles = turn,
                rule: Norm | None = rule,
                shape: tuple[int, int] = (heads, width),
            ) -> list[torch.Tensor]:
                into = x.clone()[:, : shape[0] * shape[1]].unflatten(1, shape)
                rotary.rotate(into, turn, rule, into)
                return [into]

            def backward(
                x: torch.Tensor = x, turn: rotary.Angles = turn, rule: Norm | None = rule, grad: torch.Tensor = grad,
                shape: tuple[int, int] = (heads, width),
            ) -> list[torch.Tensor]:  # fmt: skip
                into = x.clone()[:, : shape[0] * shape[1]].unflatten(1, shape)
                rotary.rotate_backward(grad, into, turn, rule, into)
                return [into]

            kind = f"{width}/{rotated} {'plain' if rule is None else 'normed'}"
            yield from compared(f"rotate {kind}", forward, dtype)
            yield from compared(f"rotate_backward {kind}", backward, dtype)


def gates(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """SwiGLU and GeGLU."""
    for activation in Activation:
        for width in (96, 1500):
            both = 3 * torch.randn(5, 2 * width, device=device, dtype=dtype)
            both[0, :8] = torch.tensor([-90.0, -30, -5, 0, 5, 30, 90, 1e4], device=device, dtype=dtype)
            grad = torch.randn(5, width, device=device, dtype=dtype)

            def forward(both: torch.Tensor = both, activation: Activation = activation) -> list[torch.Tensor]:
                out = poisoned(5, both.shape[1] // 2 + 64, dtype=dtype, device=device)[:, : both.shape[1] // 2]
                gated.gated(both, activation, out)
                return [out[1:], out[:1]]

            def backward(
                both: torch.Tensor = both, grad: torch.Tensor = grad, activation: Activation = activation
            ) -> list[torch.Tensor]:
                into, product = torch.nn.functional.pad(both, (0, 64)), grad.clone()
                gated.gated_backward(product, into[:, : both.shape[1]], activation)
                return [into[1:], product[1:], into[:1], product[:1]]

            yield from compared(f"gated {activation.value} {width}", forward, dtype)
            yield from compared(f"gated_backward {activation.value} {width}", backward, dtype)


def losses(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Loss and gradient, with and without a cap; the first token is all but certain."""
    for vocabulary in (97, 9000):
        for cap in (None, 3.0):
            logits = 4 * torch.randn(6, vocabulary, device=device, dtype=dtype)
            logits[0, 3] = 60
            targets = torch.randint(0, vocabulary, (6,), device=device)

            def run(
                logits: torch.Tensor = logits, targets: torch.Tensor = targets, cap: float | None = cap
            ) -> list[torch.Tensor]:
                into, lost = logits.clone(), poisoned(6, dtype=torch.float32, device=device)
                cross_entropy._loss_and_gradient(into, targets, cap, lost)
                return [lost, into]

            yield from compared(f"loss {vocabulary} cap {cap}", run, dtype)


def attentions(device: str) -> Iterator[Check]:
    """Attention with a cap and without, across documents of all lengths, of strided heads between what is not theirs.

    The reference computes in float32: with 16-bit scores it would be the less exact one. On a GPU float32 is not for
    these kernels, and the interpreter multiplies no bfloat16.
    """
    first = torch.float32 if switches.INTERPRETED else torch.bfloat16
    tolerances = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
    for dtype, names in ((first, tuple(ATTENTIONS)), (torch.float16, HALF_ATTENTIONS)):
        for name in names:
            found, wanted = _attention(*ATTENTIONS[name], device, dtype)
            for number, output in enumerate(("output", "gradient of q", "gradient of k", "gradient of v")):
                label = f"attention {name} {str(dtype)[6:]} {output}"
                yield Check(label, error(found[number], wanted[number]), tolerances[dtype])


def _attention(
    shape: tuple[int, int, int],
    lengths: tuple[int, ...],
    rules: attention.Rules,
    device: str,
    dtype: torch.dtype,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the kernels find, and the reference."""
    heads, keys, width = shape
    tokens, columns = sum(lengths), (heads + 2 * keys) * width
    wide = poisoned(tokens + 2, columns + 64, dtype=dtype, device=device)[1:-1]
    wide[:, :columns] = torch.randn(tokens, columns, device=device, dtype=dtype)
    all_heads = wide[:, :columns].unflatten(1, (heads + 2 * keys, width))
    parts = all_heads[:, :heads], all_heads[:, heads : heads + keys], all_heads[:, heads + keys :]
    grad = torch.randn(tokens, heads, width, device=device, dtype=dtype)
    where = layout.of_lengths(lengths, torch.device(device))
    return _by_kernel(parts, grad, where, rules), _by_torch(
        [part.float() for part in parts], grad.float(), where, rules
    )


def _by_kernel(
    parts: tuple[torch.Tensor, ...], grad: torch.Tensor, where: layout.Layout, rules: attention.Rules
) -> list[torch.Tensor]:
    from loraline_trainer.engine.kernels import attention as kernels

    q, k, v = parts
    if rules.cap is not None:
        done = attention.attend(q, k, v, where, rules)
        assert done.kind is attention.Kind.CAPPED
        return [done.out, *attention.attend_backward(grad, q, k, v, done, layout=where, rules=rules)]
    out, log_sum = kernels.forward(q, k, v, where, rules)
    return [out, *kernels.backward(grad, q, k, v, out, log_sum, layout=where, rules=rules)]


def _by_torch(
    parts: list[torch.Tensor], grad: torch.Tensor, where: layout.Layout, rules: attention.Rules
) -> list[torch.Tensor]:
    q, k, v = parts
    with switches.switched(capped_kernel=False):
        done = attention.attend(q, k, v, where, rules)
        return [done.out, *attention.attend_backward(grad, q, k, v, done, layout=where, rules=rules)]


def matrices(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """A group's matrix of NF4 weights with adapters, one of them without, two with biases: every element."""
    if switches.INTERPRETED and dtype is not torch.float32:
        return  # the interpreter rounds to bfloat16 in another way, and weights must be equal bit for bit
    columns = 192
    for shapes in (((130, 5), (64, 0), (70, 16)), ((64, 16), (64, 16)), ((96, 20),), ((64, 0),)):
        whole = group.Group(random_linears(shapes, columns, device, dtype))
        found = whole.matrix(poisoned(whole.matrix_elements, dtype=dtype, device=device))
        wanted = torch.zeros_like(found)
        for part in whole.parts:
            wanted[part.rows, :columns] = nf4.dequantized(part.linear.weight)  # type: ignore[arg-type]
        whole.place_adapters(wanted[whole.rows :, :columns], wanted[: whole.rows, columns:])
        for name, one, other in (
            ("weights and B", found[: whole.rows], wanted[: whole.rows]),
            ("A", found[whole.rows :, :columns], wanted[whole.rows :, :columns]),
        ):
            wrong = float((one != other).sum())
            yield Check(f"matrix of {len(shapes)} {str(dtype)[6:]}, {name}: unequal elements", wrong, 0)


def float8s(device: str, dtype: torch.dtype) -> Iterator[Check]:
    """Activations and weights in FP8.

    A number in the middle of two may go to either; the interpreter cuts off, an eighth of it apart at most.
    """
    for width in (96, 5000):
        x = torch.randn(5, width + 64, device=device, dtype=dtype)[:, :width]
        x[3] = 0

        def activations(x: torch.Tensor = x) -> list[torch.Tensor]:
            values, scale = fp8.quantized(x)
            return [values.float(), scale]

        yield from _compared_float8(f"fp8 activations {width}", activations)
    for shapes in (((128, 5), (64, 0), (80, 16)), ((96, 20),)):
        whole = fp8_group.Fp8Group(random_linears(shapes, 192, device, dtype))
        for assemble in (whole.matrix, whole.gradient_matrix):

            def parts(
                whole: fp8_group.Fp8Group = whole, assemble: Callable[[torch.Tensor], torch.Tensor] = assemble
            ) -> list[torch.Tensor]:
                memory = assemble(poisoned(whole.matrix_elements, dtype=dtype, device=device))
                return [whole._weight(memory).float(), whole._all_a(memory), whole._all_b(memory)]

            yield from _compared_float8(f"fp8 {assemble.__name__} of {len(shapes)}", parts)


def _compared_float8(name: str, run: Both) -> Iterator[Check]:
    with switches.switched(kernels=False, nf4_kernel=False):
        wanted = run()
    for number, (one, other) in enumerate(zip(run(), wanted, strict=True)):
        yield Check(f"{name} output {number}", error(one, other), 0.125 if switches.INTERPRETED else 2e-3)


def dequantization(device: str) -> Iterator[Check]:
    """Bit-equal to the reference, for bytes drawn at random: any error at all fails."""
    for rounded in (torch.float32,) if switches.INTERPRETED else (torch.bfloat16, torch.float32):
        for rows, columns in ((128, 192), (96, 4096)):
            for nested in (True, False):
                weight = random_nf4(rows, columns, device, rounded, nested=nested)
                out = poisoned(rows, columns + 64, dtype=rounded, device=device)[:, :columns]
                weight.place(out)
                wanted = nf4.dequantized(weight)
                wrong = float((out != wanted).sum())
                yield Check(f"nf4 {rows}x{columns} {str(rounded)[6:]} nested={nested}: unequal elements", wrong, 0)


def random_linears(
    shapes: tuple[tuple[int, int], ...], columns: int, device: str, dtype: torch.dtype
) -> list[group.Linear]:
    """Layers of (rows, rank) with one input; rank 0 has no adapter, and of three layers the first two have a bias."""
    linears: list[group.Linear] = []
    for number, (rows, rank) in enumerate(shapes):
        weight = random_nf4(rows, columns, device, dtype, like=linears[0].weight if linears else None)
        adapter = None
        if rank:
            a, b = torch.randn(rank, columns, device=device), torch.randn(rows, rank, device=device)
            adapter = group.Adapter(torch.nn.Parameter(a), torch.nn.Parameter(b), 0.7 + number)
        bias = torch.randn(rows, device=device, dtype=dtype) if number < 2 and len(shapes) == 3 else None
        linears.append(group.Linear(weight, bias, adapter))
    return linears


def random_nf4(
    rows: int, columns: int, device: str, dtype: torch.dtype, *, nested: bool = True, like: Any = None
) -> nf4.Nf4:
    """A weight of random bytes, with the codes of another one."""
    blocks = rows * columns // 64
    code = torch.sort(torch.randn(16, device=device))[0] if like is None else like.code
    nested_code = torch.randn(256, device=device) if like is None else like.nested_code
    return nf4.Nf4(
        packed=torch.randint(0, 256, (rows * columns // 2,), dtype=torch.uint8, device=device),
        code=code,
        scales=torch.randint(0, 256, (blocks,), dtype=torch.uint8, device=device)
        if nested
        else torch.rand(blocks, device=device),
        nested_code=nested_code if nested else None,
        nested_scales=torch.rand(-(-blocks // 256), device=device) * 0.02 if nested else None,
        offset=torch.tensor(0.037, device=device) if nested else None,
        block=64,
        nested_block=256 if nested else 0,
        shape=(rows, columns),
        dtype=dtype,
        state=None,
    )


def all_checks(device: str) -> Iterator[Check]:
    """All of them."""
    yield from dequantization(device)
    yield from attentions(device)
    for dtype in (torch.float32, torch.bfloat16):
        for some in (norms, rotations, gates, losses, matrices, float8s):
            yield from some(device, dtype)


def main() -> int:
    """Prints a line of JSON for each check; the exit status is the number that failed, at most 1."""
    device = "cpu" if switches.INTERPRETED else "cuda"
    failed = 0
    for check in all_checks(device):
        print(json.dumps({"name": check.name, "error": check.error, "passed": check.passed}), flush=True)
        failed += not check.passed
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
