"""Causal attention of documents that do not see each other, with a backward pass that the engine calls itself.

cuDNN for documents of one length (on an H200 0.57 + 1.83 ms where flash attention takes 0.93 + 3.21, 8 x 2,048
tokens), flash attention with variable lengths else, kernels of our own for a soft cap, torch's own on CPUs and in
float32.
Letters: T tokens, D head width. q [T, query heads, D]; k, v [T, key heads, D]; rows may lie apart.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch

from loraline_trainer.engine import switches
from loraline_trainer.engine.layout import Layout


@dataclass(frozen=True, slots=True)
class Rules:
    """How a layer attends.

    Attributes:
        scale: of the products of query and key.
        window: a token sees so many tokens, itself included; None sees all before it.
        cap: a product p becomes cap * tanh(p / cap) (Gemma 2).
    """

    scale: float
    window: int | None = None
    cap: float | None = None


class Kind(enum.Enum):
    """Who computes it."""

    CUDNN = "cudnn"
    FLASH = "flash"
    CAPPED = "capped"
    TORCH = "torch"


@dataclass(frozen=True, slots=True)
class Attended:
    """Result of a forward pass.

    Attributes:
        out: [T, query heads, D]
        extra: what the backward pass needs besides.
    """

    kind: Kind
    out: torch.Tensor
    extra: tuple[Any, ...] = ()


MOST_HEAD_CUDNN = 128
"""cuDNN's backward pass takes heads up to this width."""

MOST_HEAD_CAPPED = 256
"""The capped kernels take heads up to this width: the sums of a tile of wider ones do not fit a GPU's registers."""


def choose(query: torch.Tensor, layout: Layout, rules: Rules) -> Kind:
    """Who computes it."""
    if rules.cap is not None and _by_kernel(query):
        return Kind.CAPPED
    if not query.is_cuda or rules.cap is not None or query.dtype is torch.float32:
        return Kind.TORCH
    sees_all = rules.window is None or rules.window >= layout.longest
    if (
        switches.now().cudnn_attention
        and layout.is_dense
        and sees_all
        and query.shape[-1] <= MOST_HEAD_CUDNN
        and query.shape[-1] % 8 == 0
    ):
        return Kind.CUDNN
    return Kind.FLASH


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, rules: Rules) -> Attended:
    """The forward pass."""
    kind = choose(q, layout, rules)
    if kind is Kind.CUDNN:
        result = torch.ops.aten._scaled_dot_product_cudnn_attention(
            _rows(q, layout), _rows(k, layout), _rows(v, layout), None, True, 0.0, True, False, scale=rules.scale
        )
        # out, log-sum-exp, cumulative lengths of q and k, most of q and k, seed, offset
        return Attended(kind, _flat(result[0]), (result[0], *result[1:8]))
    if kind is Kind.FLASH:
        out, log_sum, state, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, layout.bounds, layout.bounds, layout.longest, layout.longest, 0.0, True, False,
            scale=rules.scale, **_window(layout, rules),
        )  # fmt: skip
        return Attended(kind, out, (log_sum, state, unused))
    if kind is Kind.CAPPED:
        from loraline_trainer.engine.kernels import attention as kernels

        out, log_sum = kernels.forward(q, k, v, layout, rules)
        return Attended(kind, out, (log_sum,))
    return Attended(kind, by_torch(q, k, v, layout, rules))


def attend_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    done: Attended,
    *,
    layout: Layout,
    rules: Rules,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v."""
    if done.kind is Kind.CUDNN:
        out, log_sum, bounds_q, bounds_k, most_q, most_k, seed, offset = done.extra
        found = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            _rows(grad, layout), _rows(q, layout), _rows(k, layout), _rows(v, layout), out, log_sum, seed, offset,
            None, bounds_q, bounds_k, most_q, most_k, 0.0, True, scale=rules.scale,
        )  # fmt: skip
        return _flat(found[0]), _flat(found[1]), _flat(found[2])
    if done.kind is Kind.FLASH:
        log_sum, state, unused = done.extra
        of_q, of_k, of_v = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, done.out, log_sum, layout.bounds, layout.bounds, layout.longest, layout.longest, 0.0, True,
            state, unused, scale=rules.scale, **_window(layout, rules),
        )  # fmt: skip
        return of_q, of_k, of_v
    if done.kind is Kind.CAPPED:
        from loraline_trainer.engine.kernels import attention as kernels

        return kernels.backward(grad, q, k, v, done.out, done.extra[0], layout=layout, rules=rules)
    with torch.enable_grad():
        q, k, v = (tensor.detach().requires_grad_() for tensor in (q, k, v))
        of_q, of_k, of_v = torch.autograd.grad(by_torch(q, k, v, layout, rules), (q, k, v), grad)
    return of_q, of_k, of_v


def _by_kernel(query: torch.Tensor) -> bool:
    """Whether the capped kernels take it: float32 only from the interpreter, for a GPU would multiply it in TF32."""
    if not switches.now().capped_kernel or not switches.triton_runs(query) or query.shape[-1] > MOST_HEAD_CAPPED:
        return False
    from loraline_trainer.engine.kernels import attention as kernels

    return (query.dtype is not torch.float32 or not query.is_cuda) and kernels.takes(query.device)


def _rows(flat: torch.Tensor, layout: Layout) -> torch.Tensor:
    """[T, heads, D] as [documents, heads, tokens of a document, D]."""
    return flat.view(len(layout.lengths), layout.longest, flat.shape[1], flat.shape[2]).transpose(1, 2)


def _flat(rows: torch.Tensor) -> torch.Tensor:
    """The other way; no copy when heads lie inside tokens."""
    return rows.transpose(1, 2).flatten(0, 1)


def _window(layout: Layout, rules: Rules) -> dict[str, int]:
    if rules.window is None or rules.window >= layout.longest:
        return {}
    return {"window_size_left": rules.window - 1, "window_size_right": 0}


def by_torch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, rules: Rules) -> torch.Tensor:
    """Document by document, differentiable."""
    outs = []
    for one in zip(q.split(layout.lengths), k.split(layout.lengths), v.split(layout.lengths), strict=True):
        query, key, value = (tensor.transpose(0, 1)[None] for tensor in one)  # [1, heads, tokens, D]
        tokens = query.shape[2]
        mask = None
        if rules.window is not None and rules.window < tokens:
            position = torch.arange(tokens, device=q.device)
            distance = position[:, None] - position[None, :]
            mask = (distance >= 0) & (distance < rules.window)
        if rules.cap is not None:
            out = _capped(query, key, value, mask, rules)
        else:
            out = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, scale=rules.scale, enable_gqa=True
            )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, rules: Rules
) -> torch.Tensor:
    assert rules.cap is not None
    tokens, group = query.shape[2], query.shape[1] // key.shape[1]
    if mask is None:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = (query @ key.transpose(2, 3)).float() * rules.scale
    scores = (torch.tanh(scores / rules.cap) * rules.cap).masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(value.dtype) @ value
