"""Is the engine right on this GPU, and where does its time go? One program of a few minutes.

    PYTHONPATH=crds:trainer_image:tests python -m bench.gpu.smoke [PART...]

Parts: kernels, attention, gradients, pieces, step. A part that fails is reported and the others go on. Prints a compact
table last; details go to $OUT. Ceilings are those of one H200 at 16,384 tokens, each product timed alone.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from bench.gpu import kernel_checks, random_model, timing
from loraline_trainer.engine import attention, build, cross_entropy, gated, layout, norm, rotary, switches
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.layer import Batch
from loraline_trainer.engine.policy import LayerPolicy

TOKENS = 16384
DEVICE = torch.device("cuda", 0)
OUT = Path(os.environ.get("OUT", "/tmp/smoke"))
TABLE: list[str] = []


def say(line: str, *, table: bool = True) -> None:
    """Prints a line now, and again in the table."""
    print(line, flush=True)
    if table:
        TABLE.append(line)


def engine_of(model: Any) -> Engine:
    """The engine of the model."""
    found = build.engine_for(model)
    assert isinstance(found, Engine), found
    return found


def kernels() -> None:
    """Every kernel against its reference."""
    checks = list(kernel_checks.all_checks("cuda"))
    wrong = [check for check in checks if not check.passed]
    for check in wrong:
        say(f"WRONG {check.name}: {check.error:.2e} > {check.tolerance:.0e}")
    say(f"kernels: {len(checks) - len(wrong)} of {len(checks)} outputs right")


def attentions() -> None:
    """Each kind of attention against torch's in float32, document by document."""
    cases = {
        "dense": ([256] * 4, None),
        "dense, odd length": ([193] * 3, None),
        "ragged": ([300, 17, 1, 128, 511], None),
        "ragged, window": ([300, 17, 1, 128, 511], 64),
    }
    for name, (lengths, window) in cases.items():
        for heads, keys, width in ((32, 8, 128), (12, 3, 64), (8, 4, 256)):
            where = layout.of_lengths(lengths, DEVICE)
            total = sum(lengths)
            wide = torch.randn(total, (heads + 2 * keys) * width + 64, device=DEVICE, dtype=torch.bfloat16)
            all_heads = wide[:, : (heads + 2 * keys) * width].unflatten(1, (heads + 2 * keys, width))
            q, k, v = all_heads[:, :heads], all_heads[:, heads : heads + keys], all_heads[:, heads + keys :]
            grad = torch.randn(total, heads, width, device=DEVICE, dtype=torch.bfloat16)
            rules = attention.Rules(width**-0.5, window)
            kind = attention.choose(q, where, rules)
            try:
                done = attention.attend(q, k, v, where, rules)
                found = [done.out, *attention.attend_backward(grad, q, k, v, done, where, rules)]
                exact = [one.float() for one in (q, k, v)]
                right = attention.attend(*exact, where, rules)
                wanted = [right.out, *attention.attend_backward(grad.float(), *exact, right, where, rules)]
                errors = [kernel_checks.error(one, other) for one, other in zip(found, wanted, strict=True)]
                verdict = "right" if max(errors) < 1e-2 else "WRONG"
                say(f"attention {name}, {heads}/{keys} heads of {width}, {kind.value}: {verdict} {max(errors):.1e}")
            except RuntimeError as problem:
                say(f"attention {name}, {heads}/{keys} heads of {width}, {kind.value}: FAILED {str(problem)[:300]}")


def tokens_of(lengths: list[int], vocabulary: int) -> tuple[torch.Tensor, layout.Layout, torch.Tensor, torch.Tensor]:
    """Random documents of which every token counts: what `Engine.loss` takes."""
    ids = torch.randint(3, vocabulary, (sum(lengths),), device=DEVICE)
    where = layout.of_lengths(lengths, DEVICE)
    place = (where.positions > 0).nonzero()[:, 0]
    return ids, where, place - 1, ids[place]


def gradients() -> None:
    """Four layers of the 8B shape: errors of engine and PEFT in bfloat16 against PEFT in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    base = random_model.llama(4, vocabulary=32000)
    model = random_model.adapted(base)
    weights = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    ids, where, predict_at, targets = tokens_of([512] * 4, 32000)
    rows = ids.view(4, 512)

    def of_peft(model: Any, *, autocast: bool) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            logits = model(input_ids=rows, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        return loss.item(), {
            name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad
        }

    def of_engine(engine: Engine, lengths: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        loss = engine.loss(ids, layout.of_lengths(lengths, DEVICE), predict_at, targets) / len(targets)
        loss.backward()
        return loss.item(), {
            name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad
        }

    results: dict[str, tuple[float, dict[str, torch.Tensor]]] = {}

    def tried(name: str, work: Callable[[], tuple[float, dict[str, torch.Tensor]]]) -> None:
        try:
            results[name] = work()
        except Exception as problem:
            say(f"gradients {name}: FAILED {type(problem).__name__} {str(problem)[:300]}")
            traceback.print_exc()

    engine = engine_of(model)
    tried("peft bf16", lambda: of_peft(model, autocast=True))
    tried("engine", lambda: of_engine(engine, [512] * 4))
    for policy in (LayerPolicy.RECOMPUTE, LayerPolicy.OFFLOAD):
        engine.set_policies([policy] * 4)
        tried(f"engine {policy.value}", lambda: of_engine(engine, [512] * 4))
    engine.set_policies([LayerPolicy.KEEP] * 4)
    for off in (
        {"cudnn_attention": False},
        {"fold": False},
        {"kernels": False},
        {"nf4_kernel": False},
        {"loss_kernel": False},
    ):
        with switches.switched(**off):
            tried(f"engine without {next(iter(off))}", lambda: of_engine(engine, [512] * 4))
    plain = model.unload()
    random_model.unquantized(plain)
    exact_model = random_model.adapted(plain)
    with torch.no_grad():
        for name, value in exact_model.named_parameters():
            if value.requires_grad:
                value.copy_(weights[name])
    exact_loss, exact = of_peft(exact_model, autocast=False)
    say(f"loss, float32 reference: {exact_loss:.6f}")
    for name, (loss, found) in results.items():
        errors = sorted(kernel_checks.error(found[key], value) for key, value in exact.items())
        mean = sum(errors) / len(errors)
        say(f"gradients {name:32s} loss off {loss - exact_loss:+.1e}; error mean {mean:.2e}, worst {errors[-1]:.2e}")


def pieces() -> None:
    """Each piece of a layer at its real shape."""
    base = random_model.llama(1, vocabulary=128256)
    engine = engine_of(random_model.adapted(base))
    layer = engine._stack.layers[0]
    where = layout.of_lengths([2048] * 8, DEVICE)
    batch = Batch(where, engine._angles(where), engine._scratch_on(DEVICE))
    hidden, width = layer.hidden, layer.intermediate

    def random(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16) * 0.1

    def timed(name: str, work: Callable[[], Any], ceiling: float | None = None) -> None:
        try:
            took = timing.median_ms(work)
            note = f"  ceiling {ceiling:.3f}  {took / ceiling:.2f} x" if ceiling else ""
            say(f"{name:44s} {took:7.3f} ms{note}")
        except Exception as problem:
            say(f"{name}: FAILED {type(problem).__name__} {str(problem)[:200]}")
            traceback.print_exc()

    copied = random(TOKENS, hidden)
    timed("copy of [16384, 4096]", lambda: torch.empty_like(copied).copy_(copied), 0.068)
    ceilings = {"qkv": (1.24, 1.24), "o": (0.84, 0.84), "gate_up": (5.82, 5.69), "down": (3.06, 2.85)}
    for name, group in zip(ceilings, layer.groups, strict=True):
        x, out = random(TOKENS, group.columns + group.fold), random(TOKENS, group.rows)
        grad, inner = random(TOKENS, group.rows + group.fold), random(TOKENS, group.fold)
        weights = group.rows * group.columns / 218103808 * 0.138
        timed(f"{name} matrix", lambda g=group: g.matrix(batch.scratch), weights)
        matrix = group.matrix(batch.scratch)
        timed(f"{name} forward", lambda g=group, m=matrix, x=x, o=out: g.forward(m, x, o), ceilings[name][0])
        timed(f"{name}   u = x A^T alone", lambda g=group, m=matrix, x=x: g.inner(m, x[:, : g.columns]))
        timed(f"{name} backward", lambda g=group, m=matrix, y=grad: g.backward(m, y), ceilings[name][1])
        timed(f"{name}   v = g B alone", lambda g=group, m=matrix, y=grad: g.backward(m, y, wants_input=False))
        timed(
            f"{name} adapter gradients",
            lambda g=group, y=grad, i=inner, x=x: g.adapter_gradients(y, i, x[:, : g.columns]),
        )
        del x, out, grad, inner, matrix
    x, delta, wide = random(TOKENS, hidden), random(TOKENS, hidden), random(TOKENS, hidden + 64)
    timed("add_norm", lambda: norm.add_norm(x, delta, layer.norm_mlp, wide[:, :hidden]), 0.136)
    scale = norm.add_norm(x, delta, layer.norm_mlp, wide[:, :hidden])[1]
    timed(
        "norm_backward",
        lambda: norm.norm_backward(delta, x, scale, layer.norm_mlp, wide[:, :hidden], wide[:, :hidden]),
        0.136,
    )
    qkv = random(TOKENS, 6144 + 64)
    turn = batch.angles[layer.kind]
    q, k, v = layer._split(qkv)
    timed("rotate q", lambda: rotary.rotate(q, turn, None, q), 0.068)
    timed("rotate k", lambda: rotary.rotate(k, turn, None, k), 0.017)
    both, product = random(TOKENS, 2 * width + 64), random(TOKENS, width + 64)
    timed("gated", lambda: gated.gated(both[:, : 2 * width], layer.activation, product[:, :width]), 0.357)
    timed(
        "gated_backward",
        lambda: gated.gated_backward(product[:, :width], both[:, : 2 * width], layer.activation),
        0.714,
    )
    del both, product
    spans = {"2048": [2048] * 8, "8192": [8192] * 2, "512": [512] * 32, "ragged": ragged_lengths()}
    best = {"2048": (0.57, 1.83), "8192": (1.96, 5.69), "512": (0.20, 0.86), "ragged": (None, None)}
    for name, lengths in spans.items():
        place = layout.of_lengths(lengths, DEVICE)
        rows = sum(lengths)
        kind = attention.choose(q, place, layer.rules).value
        part = [one[:rows] for one in (q, k, v)]
        timed(
            f"attention {name} {kind} forward",
            lambda p=place, part=part: attention.attend(*part, p, layer.rules),
            best[name][0],
        )
        try:
            done = attention.attend(*part, place, layer.rules)
            of_out = random(rows, 4096).view(rows, 32, 128)
            timed(
                f"attention {name} {kind} backward",
                lambda p=place, part=part, d=done, o=of_out: attention.attend_backward(o, *part, d, p, layer.rules),
                best[name][1],
            )
        except Exception as problem:
            say(f"attention {name} backward: FAILED {str(problem)[:200]}")
    states = random(TOKENS, hidden).requires_grad_()
    targets = torch.randint(0, 128256, (TOKENS,), device=DEVICE)
    timed("loss, forward with gradient", lambda: cross_entropy.summed(states, targets, engine._head), 51)
    del states
    base_x = random(TOKENS, hidden)

    def whole_forward() -> None:
        with torch.no_grad():
            layer.forward(base_x, delta, batch)

    timed("layer forward", whole_forward)

    def whole_both() -> None:
        with torch.no_grad():
            kept = layer.forward(base_x, delta, batch)[2]
            layer.backward(wide, kept, batch, wants_input=True)

    timed("layer forward and backward", whole_both, 900 / 32 - 1.6)

    def whole_replay() -> None:
        with torch.no_grad():
            layer.forward(base_x, delta, batch)
            layer.backward(wide, layer.replay(base_x, batch), batch, wants_input=True)

    timed("layer forward, replay and backward", whole_replay)


def ragged_lengths(total: int = TOKENS, most: int = 2048) -> list[int]:
    """Log-normal lengths around an eighth of the longest, as instruction data has them; about `total` tokens."""
    draw = torch.Generator().manual_seed(1)
    found: list[int] = []
    while sum(found) < total - most // 4:
        value = torch.exp(torch.randn((), generator=draw) * 0.8 + torch.log(torch.tensor(most / 8.0)))
        found.append(int(value.clamp(16, min(most, total - sum(found)))))
    return found


def step() -> None:
    """A whole step of the 8B shape, with each policy and kind of data."""
    began = time.monotonic()
    base = random_model.llama(32)
    engine = engine_of(random_model.adapted(base))
    parameters = engine._stack.parameters
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    say(
        f"8B made in {time.monotonic() - began:.1f} s; {torch.cuda.memory_allocated() / 2**30:.2f} GiB, {free / 2**30:.0f} free"
    )

    def run(lengths: list[int], policies: list[LayerPolicy]) -> Callable[[], None]:
        inputs = tokens_of(lengths, 128256)

        def work() -> None:
            engine.set_policies(policies)
            (engine.loss(*inputs) / len(inputs[3])).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return work

    keep, replay, park = ([policy] * 32 for policy in (LayerPolicy.KEEP, LayerPolicy.RECOMPUTE, LayerPolicy.OFFLOAD))
    cases: dict[str, tuple[list[int], list[LayerPolicy]]] = {
        "2048 x 8, keep": ([2048] * 8, keep),
        "2048 x 8, recompute": ([2048] * 8, replay),
        "2048 x 2, recompute": ([2048] * 2, replay),
        "2048 x 8, offload": ([2048] * 8, park),
        "8192 x 2, keep": ([8192] * 2, keep),
        "ragged 16k, keep": (ragged_lengths(), keep),
        "2048 x 1, keep": ([2048], keep),
        "2048 x 2, lean": ([2048] * 2, park),
        "2048 x 4, lean": ([2048] * 4, park),
    }
    for name, (lengths, policies) in cases.items():
        lean = name.endswith("lean")
        try:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            work = run(lengths, policies)
            with engine.embeddings_on_host() if lean else nullcontext():
                engine.set_loss_bytes((128 if lean else 512) * 2**20)
                torch.cuda.reset_peak_memory_stats()
                took = timing.median_ms(work, 1800)
            peak = torch.cuda.max_memory_allocated() / 2**30
            say(f"step {name:22s} {took:8.1f} ms {sum(lengths) / took * 1000:8.0f} tok/s, peak {peak:5.1f} GiB")
        except Exception as problem:
            say(f"step {name}: FAILED {type(problem).__name__} {str(problem)[:200]}")
            traceback.print_exc()
    for off in ("wide_gradient", "fold", "kernels", "nf4_kernel", "loss_kernel", "cudnn_attention"):
        try:
            torch.cuda.empty_cache()
            work = run(*cases["2048 x 8, keep"])
            with switches.switched(**{off: False}):
                took = timing.median_ms(work, 1800)
            say(f"step 2048 x 8, keep, without {off:16s} {took:8.1f} ms {TOKENS / took * 1000:8.0f} tok/s")
        except Exception as problem:
            say(f"step without {off}: FAILED {type(problem).__name__} {str(problem)[:200]}")
    for name in ("2048 x 8, keep", "2048 x 1, keep"):
        try:
            work = run(*cases[name])
            work()
            rows, span, busy = timing.profile(work)
            say(f"profile of {name}: {span:.1f} ms, idle {100 * (1 - busy / span):.1f} %\n{rows}")
        except Exception as problem:
            say(f"profile {name}: FAILED {str(problem)[:200]}")
            traceback.print_exc()


PARTS: dict[str, Callable[[], None]] = {
    "kernels": kernels,
    "attention": attentions,
    "gradients": gradients,
    "pieces": pieces,
    "step": step,
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
