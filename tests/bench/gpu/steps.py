"""Whole optimizer steps of the 8B shape: each policy, each kind of data, and each optimisation left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch

from bench.gpu import random_model, timing
from bench.gpu.report import TOKENS, engine_of, ragged_lengths, say, tokens_of, tried
from loraline_trainer.engine import switches
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.policy import LayerPolicy

LAYERS = 32
VOCABULARY = 128256
BUDGET_MS = 1000.0

CASES: dict[str, tuple[list[int], LayerPolicy]] = {
    "2048 x 8, keep": ([2048] * 8, LayerPolicy.KEEP),
    "2048 x 8, recompute": ([2048] * 8, LayerPolicy.RECOMPUTE),
    "2048 x 8, offload": ([2048] * 8, LayerPolicy.OFFLOAD),
    "8192 x 2, keep": ([8192] * 2, LayerPolicy.KEEP),
    "ragged 16k, keep": (ragged_lengths(), LayerPolicy.KEEP),
    "2048 x 1, keep": ([2048], LayerPolicy.KEEP),
    "2048 x 2, recompute": ([2048] * 2, LayerPolicy.RECOMPUTE),
    "2048 x 2, lean": ([2048] * 2, LayerPolicy.OFFLOAD),
    "2048 x 4, lean": ([2048] * 4, LayerPolicy.OFFLOAD),
}
"""`lean` also keeps the embeddings on the host, and makes the loss in small tiles."""

FP8_CASES = ("2048 x 8, keep", "8192 x 2, keep", "2048 x 8, recompute", "2048 x 4, lean")

WITHOUT = ("wide_gradient", "fold", "kernels", "nf4_kernel", "loss_kernel", "cudnn_attention")


def steps() -> None:
    """All of them, then a profile of the first and of a host-bound one."""
    began = time.monotonic()
    model = random_model.adapted(random_model.llama(LAYERS))
    engine, in_fp8 = engine_of(model), engine_of(model, in_fp8=True)
    optimizer = torch.optim.AdamW(engine.parameters, lr=1e-5, fused=True)
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated() / 2**30
    say(f"8B made in {time.monotonic() - began:.1f} s; {held:.2f} GiB")
    for name in CASES:
        tried(f"step {name}", partial(_timed, engine, optimizer, name))
    first = next(iter(CASES))
    for off in WITHOUT:
        with switches.switched(**{off: False}):
            tried(f"step without {off}", partial(_timed, engine, optimizer, first, f", without {off}"))
    for name in FP8_CASES:
        tried(f"step {name} in fp8", partial(_timed, in_fp8, optimizer, name, ", in fp8"))
    for kind, name in ((engine, first), (engine, "2048 x 1, keep"), (in_fp8, first)):
        tried(f"profile {name}", partial(_profiled, kind, optimizer, name))


def work_of(engine: Engine, optimizer: torch.optim.Optimizer, name: str) -> Callable[[], None]:
    """One optimizer step of a case."""
    lengths, policy = CASES[name]
    inputs = tokens_of(lengths, VOCABULARY)
    engine.set_policies([policy] * LAYERS)

    def work() -> None:
        (engine.loss(*inputs) / len(inputs[3])).backward()
        torch.nn.utils.clip_grad_norm_(engine.parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return work


def _timed(engine: Engine, optimizer: torch.optim.Optimizer, name: str, note: str = "") -> None:
    lean = name.endswith("lean")
    torch.cuda.empty_cache()
    work = work_of(engine, optimizer, name)
    engine.set_loss_bytes((128 if lean else 512) * 2**20)
    with engine.embeddings_on_host() if lean else nullcontext():
        torch.cuda.reset_peak_memory_stats()
        took = timing.median_ms(work, BUDGET_MS)
    peak = torch.cuda.max_memory_allocated() / 2**30
    speed = sum(CASES[name][0]) / took * 1000
    say(f"step {name + note:44s} {took:8.1f} ms {speed:8.0f} tok/s, peak {peak:5.2f} GiB")


def _profiled(engine: Engine, optimizer: torch.optim.Optimizer, name: str) -> None:
    work = work_of(engine, optimizer, name)
    work()
    rows, span, busy = timing.profile(work)
    say(f"profile of {name}: {span:.1f} ms, idle {100 * (1 - busy / span):.1f} %, {TOKENS} tokens at most\n{rows}")
