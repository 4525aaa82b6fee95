"""Each piece of a decoder layer of the 8B shape, alone, at 16,384 tokens, beside the best seen of it on one H200."""

from __future__ import annotations

import torch

from bench.gpu import random_model
from bench.gpu.report import DEVICE, TOKENS, engine_of, ragged_lengths, say, timed, tried
from loraline_trainer.engine import attention, cross_entropy, gated, layout, norm, rotary
from loraline_trainer.engine.cross_entropy import Head
from loraline_trainer.engine.layer import Batch, Layer

PRODUCTS = {"qkv": (1.24, 1.24), "o": (0.84, 0.84), "gate_up": (5.82, 5.69), "down": (3.06, 2.85)}
"""ms forward (with the adapter folded in, where that was measured) and backward."""

ATTENTIONS = {
    "2048": ([2048] * 8, 0.57, 1.83),
    "8192": ([8192] * 2, 1.96, 5.69),
    "512": ([512] * 32, 0.20, 0.86),
    "ragged": (ragged_lengths(), None, None),
}


def random(rows: int, columns: int) -> torch.Tensor:
    """Numbers of the size of activations."""
    return torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16) * 0.1


def pieces() -> None:
    """All of them."""
    engine = engine_of(random_model.adapted(random_model.llama(1)))
    layer = engine._stack.layers[0]
    where = layout.of_lengths([2048] * 8, DEVICE)
    batch = Batch(where, engine._angles(where), engine._scratch_on(DEVICE))
    with torch.no_grad():
        _products(layer, batch)
        _passes(layer, batch)
        _attentions(layer)
    _loss(engine._head)
    with torch.no_grad():
        _whole(layer, batch)


def _products(layer: Layer, batch: Batch) -> None:
    for group, (name, (forward, backward)) in zip(layer.groups, PRODUCTS.items(), strict=True):
        x, out = random(TOKENS, group.columns + group.fold), random(TOKENS, group.rows)
        grad, inner = random(TOKENS, group.rows + group.fold), random(TOKENS, group.fold)
        bare = x[:, : group.columns]
        matrix = group.matrix(batch.scratch)
        bound = (group, x, out, grad, inner, bare, matrix)
        _product(name, bound, batch, (forward, backward))


def _product(name: str, bound: tuple, batch: Batch, best: tuple[float, float]) -> None:  # type: ignore[type-arg]
    group, x, out, grad, inner, bare, matrix = bound
    timed(f"{name} matrix", lambda: group.matrix(batch.scratch), group.rows * group.columns / 218103808 * 0.138)
    timed(f"{name} forward", lambda: group.forward(matrix, x, out), best[0])
    timed(f"{name}   u = x A^T alone", lambda: group.inner(matrix, bare))
    timed(f"{name} backward", lambda: group.backward(matrix, grad), best[1])
    timed(f"{name}   v = g B alone", lambda: group.backward(matrix, grad, wants_input=False))
    timed(f"{name} adapter gradients", lambda: group.adapter_gradients(grad, inner, inner, bare))


def _passes(layer: Layer, batch: Batch) -> None:
    hidden, width = layer.hidden, layer.intermediate
    copied = random(TOKENS, hidden)
    timed("copy of [16384, 4096]", lambda: torch.empty_like(copied).copy_(copied), 0.068)
    x, delta, wide = random(TOKENS, hidden), random(TOKENS, hidden), random(TOKENS, hidden + 64)
    out = wide[:, :hidden]
    timed("add_norm", lambda: norm.add_norm(x, delta, layer.norm_mlp, out), 0.136)
    scale = norm.add_norm(x, delta, layer.norm_mlp, out)[1]
    timed(
        "norm_backward",
        lambda: norm.norm_backward(delta, x, scale, layer.norm_mlp, residual=out, out=out),
        0.136,
    )
    qkv, turn = random(TOKENS, layer.qkv.rows), batch.angles[layer.kind]
    turned = qkv.unflatten(1, (-1, layer.heads.width))[:, : layer.heads.queries + layer.heads.keys]
    timed("rotate q and k", lambda: rotary.rotate(turned, turn, None, turned), 0.085)
    both, product = random(TOKENS, 2 * width + 64), random(TOKENS, width + 64)
    gate_up, part = both[:, : 2 * width], product[:, :width]
    timed("gated", lambda: gated.gated(gate_up, layer.activation, part), 0.357)
    timed("gated_backward", lambda: gated.gated_backward(part, gate_up, layer.activation), 0.714)


def _attentions(layer: Layer) -> None:
    q, k, v = layer._split(random(TOKENS, layer.qkv.rows))
    for name, (lengths, forward, backward) in ATTENTIONS.items():
        where, rows = layout.of_lengths(lengths, DEVICE), sum(lengths)
        heads = q[:rows], k[:rows], v[:rows]
        grad = random(rows, layer.o.columns).view(rows, layer.heads.queries, layer.heads.width)
        kind = attention.choose(q, where, layer.rules).value
        _attention(f"attention {name} {kind}", heads, grad, where, (layer, forward, backward))


def _attention(
    name: str,
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    grad: torch.Tensor,
    where: layout.Layout,
    best: tuple[Layer, float | None, float | None],
) -> None:
    layer, forward, backward = best
    timed(f"{name} forward", lambda: attention.attend(*heads, where, layer.rules), forward)
    done = tried(name, lambda: attention.attend(*heads, where, layer.rules))
    if done is not None:
        timed(
            f"{name} backward",
            lambda: attention.attend_backward(grad, *heads, done, layout=where, rules=layer.rules),
            backward,
        )


def _loss(head: Head) -> None:
    states = random(TOKENS, head.weight.shape[1]).requires_grad_()
    targets = torch.randint(0, head.weight.shape[0], (TOKENS,), device=DEVICE)
    timed("loss, forward with gradient", lambda: cross_entropy.summed(states, targets, head), 51)


def _whole(layer: Layer, batch: Batch) -> None:
    x, delta = random(TOKENS, layer.hidden), random(TOKENS, layer.hidden)
    grad = random(TOKENS, layer.hidden + layer.o.fold)
    timed("layer forward", lambda: layer.forward(x, delta, batch))

    def both() -> None:
        layer.backward(grad, layer.forward(x, delta, batch)[2], batch, wants_input=True)

    def replayed() -> None:
        layer.forward(x, delta, batch)
        layer.backward(grad, layer.replay(x, batch), batch, wants_input=True)

    timed("layer forward and backward", both)
    timed("layer forward, replay and backward", replayed)
    say(f"memory of one layer: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
