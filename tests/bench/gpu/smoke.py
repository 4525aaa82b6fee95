"""Is the engine right on this GPU, and where does its time go? One program of a few minutes.

    PYTHONPATH=crds:trainer_image:tests python -m bench.gpu.smoke [PART...]

Parts: kernels, attention, gradients, pieces, steps. A part that fails is reported and the others go on. Prints a
compact table last and writes it to $OUT. Ceilings are those of one H200 at 16,384 tokens, each product timed alone.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench.gpu import kernel_checks
from bench.gpu.gradients import gradients
from bench.gpu.pieces import pieces
from bench.gpu.report import DEVICE, TABLE, ragged_lengths, say, timed, tried
from bench.gpu.steps import steps
from loraline_trainer.engine import attention, layout

OUT = Path(os.environ.get("OUT", "/tmp/smoke"))


def kernels() -> None:
    """Every kernel against its reference."""
    checks = list(kernel_checks.all_checks("cuda"))
    wrong = [check for check in checks if not check.passed]
    for check in wrong:
        say(f"WRONG {check.name}: {check.error:.2e} > {check.tolerance:.0e}")
    say(f"kernels: {len(checks) - len(wrong)} of {len(checks)} outputs right")


RAGGED = [300, 17, 1, 128, 511]
ATTENTIONS: dict[str, tuple[list[int], int | None, float | None]] = {
    "dense": ([256] * 4, None, None),
    "dense, odd length": ([193] * 3, None, None),
    "ragged": (RAGGED, None, None),
    "ragged, window": (RAGGED, 64, None),
    "dense, cap": ([256] * 4, None, 2.0),
    "ragged, cap": (RAGGED, None, 2.0),
    "ragged, window, cap": (RAGGED, 64, 2.0),
}
"""Lengths of documents, window, and cap."""

HEADS = ((32, 8, 128), (12, 3, 64), (8, 4, 256))
"""Of queries, of keys, and their width."""

GEMMA_2 = (16, 8, 256)
"""The same of the 9B."""


def attentions() -> None:
    """Each kind of attention against torch's in float32, document by document; what the cap of Gemma 2 costs."""
    for name, (lengths, window, cap) in ATTENTIONS.items():
        for shape in HEADS:
            label = f"attention {name}, {shape[0]}/{shape[1]} heads of {shape[2]}"
            tried(label, partial(_attention, label, lengths, attention.Rules(shape[2] ** -0.5, window, cap), shape))
    for name, lengths in {"8 x 2048": [2048] * 8, "ragged": ragged_lengths()}.items():
        for cap in (50.0, None):
            tried(f"times of attention {name}, cap {cap}", partial(_attention_times, name, lengths, cap))


def _attention(label: str, lengths: list[int], rules: attention.Rules, shape: tuple[int, int, int]) -> None:
    where = layout.of_lengths(lengths, DEVICE)
    parts, grad = _heads(sum(lengths), shape)
    found = _both_ways(parts, grad, where, rules)
    wanted = _both_ways(tuple(part.float() for part in parts), grad.float(), where, rules)
    errors = [kernel_checks.error(one, other) for one, other in zip(found, wanted, strict=True)]
    right = all(error < 1e-2 for error in errors)
    outcome = f"right {max(errors):.1e}"
    if not right:
        outcome = "WRONG " + ", ".join(f"{name} {error:.1e}" for name, error in zip(OUTPUTS, errors, strict=True))
    kind = attention.choose(parts[0], where, rules)
    if right and kind is attention.Kind.CAPPED:
        again = _both_ways(parts, grad, where, rules)
        unequal = sum(int((one != other).sum()) for one, other in zip(found, again, strict=True))
        outcome += f", WRONG: {unequal} elements differ the second time" if unequal else ", the same twice"
    say(f"{label}, {kind.value}: {outcome}")


OUTPUTS = ("output", "gradient of q", "of k", "of v")


def _attention_times(name: str, lengths: list[int], cap: float | None) -> None:
    where = layout.of_lengths(lengths, DEVICE)
    (q, k, v), grad = _heads(sum(lengths), GEMMA_2)
    rules = attention.Rules(GEMMA_2[2] ** -0.5, None, cap)
    label = f"attention {name} 16/8 of 256 {attention.choose(q, where, rules).value}"
    timed(f"{label} forward", lambda: attention.attend(q, k, v, where, rules))
    done = attention.attend(q, k, v, where, rules)
    timed(f"{label} backward", lambda: attention.attend_backward(grad, q, k, v, done, layout=where, rules=rules))


def _heads(rows: int, shape: tuple[int, int, int]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Queries, keys and values as views of one buffer, and a gradient."""
    heads, keys, width = shape
    columns = (heads + 2 * keys) * width
    wide = torch.randn(rows, columns + 64, device=DEVICE, dtype=torch.bfloat16)
    all_heads = wide[:, :columns].unflatten(1, (heads + 2 * keys, width))
    parts = all_heads[:, :heads], all_heads[:, heads : heads + keys], all_heads[:, heads + keys :]
    return parts, torch.randn(rows, heads, width, device=DEVICE, dtype=torch.bfloat16)


def _both_ways(
    parts: tuple[torch.Tensor, ...], grad: torch.Tensor, where: layout.Layout, rules: attention.Rules
) -> list[torch.Tensor]:
    q, k, v = parts
    done = attention.attend(q, k, v, where, rules)
    return [done.out, *attention.attend_backward(grad, q, k, v, done, layout=where, rules=rules)]


PARTS: dict[str, Callable[[], None]] = {
    "kernels": kernels,
    "attention": attentions,
    "gradients": gradients,
    "pieces": pieces,
    "steps": steps,
}


def main(names: list[str]) -> int:
    """Runs the parts."""
    OUT.mkdir(parents=True, exist_ok=True)
    say(f"{torch.cuda.get_device_name(0)}, torch {torch.__version__}")
    torch.manual_seed(int(time.time()))
    for name in names or list(PARTS):
        began = time.monotonic()
        try:
            PARTS[name]()
        except Exception:
            say(f"PART {name} FAILED\n{traceback.format_exc(limit=6)}")
        torch.cuda.empty_cache()
        say(f"-- {name}: {time.monotonic() - began:.0f} s")
        (OUT / "smoke.txt").write_text("\n".join(TABLE) + "\n")
    print("\n========== table\n" + "\n".join(TABLE))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
