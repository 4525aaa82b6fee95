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
from bench.gpu.report import DEVICE, TABLE, say, tried
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
ATTENTIONS: dict[str, tuple[list[int], int | None]] = {
    "dense": ([256] * 4, None),
    "dense, odd length": ([193] * 3, None),
    "ragged": (RAGGED, None),
    "ragged, window": (RAGGED, 64),
}
HEADS = ((32, 8, 128), (12, 3, 64), (8, 4, 256))
"""Of queries, of keys, and their width."""


def attentions() -> None:
    """Each kind of attention against torch's in float32, document by document."""
    for name, (lengths, window) in ATTENTIONS.items():
        for shape in HEADS:
            label = f"attention {name}, {shape[0]}/{shape[1]} heads of {shape[2]}"
            tried(label, partial(_attention, label, lengths, window, shape))


def _attention(label: str, lengths: list[int], window: int | None, shape: tuple[int, int, int]) -> None:
    heads, keys, width = shape
    where = layout.of_lengths(lengths, DEVICE)
    rows, columns = sum(lengths), (heads + 2 * keys) * width
    wide = torch.randn(rows, columns + 64, device=DEVICE, dtype=torch.bfloat16)
    all_heads = wide[:, :columns].unflatten(1, (heads + 2 * keys, width))
    parts = all_heads[:, :heads], all_heads[:, heads : heads + keys], all_heads[:, heads + keys :]
    grad = torch.randn(rows, heads, width, device=DEVICE, dtype=torch.bfloat16)
    rules = attention.Rules(width**-0.5, window)
    found = _both_ways(parts, grad, where, rules)
    wanted = _both_ways(tuple(part.float() for part in parts), grad.float(), where, rules)
    worst = max(kernel_checks.error(one, other) for one, other in zip(found, wanted, strict=True))
    verdict = "right" if worst < 1e-2 else "WRONG"
    say(f"{label}, {attention.choose(parts[0], where, rules).value}: {verdict} {worst:.1e}")


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
