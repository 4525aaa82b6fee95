"""All decoder layers and the last norm as one autograd function: what is kept, replayed or offloaded is ours to say.

One function rather than one a layer: the residual sum of a layer rides in the next one's norm, the gradient stays in
one buffer, buffers are freed when their last reader is done, and autograd's own bookkeeping is paid once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loraline_trainer.engine import norm
from loraline_trainer.engine.layer import Batch, Kept, Layer
from loraline_trainer.engine.norm import Norm
from loraline_trainer.engine.offload import Offload, Parked
from loraline_trainer.engine.policy import LayerPolicy


@dataclass(frozen=True, slots=True)
class Stack:
    """Decoder layers and the norm behind them."""

    layers: tuple[Layer, ...]
    last_norm: Norm
    offload: Offload

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The adapters' parameters, in the order of their gradients."""
        return [
            parameter
            for layer in self.layers
            for group in layer.groups
            for adapter in group.adapters
            for parameter in (adapter.a, adapter.b)
        ]


Watch = Callable[[int], None]


def run(
    stack: Stack,
    embedded: list[torch.Tensor],
    batch: Batch,
    policies: Sequence[LayerPolicy],
    watch: Watch | None = None,
) -> torch.Tensor:
    """The normed output of the last layer. [T, H]

    Args:
        embedded: the embedded tokens [T, H], taken out of the list: no caller holds them while the layers run.
        watch: called after each layer with its number.
    """
    if not torch.is_grad_enabled():
        return _forward(stack, embedded, batch, None, [], watch=watch)[0]
    out: torch.Tensor = _Run.apply(  # type: ignore[no-untyped-call]
        stack, embedded, batch, tuple(policies), watch, *stack.parameters
    )
    return out


@dataclass(slots=True)
class _Last:
    """The input of the last norm."""

    x: torch.Tensor
    scale: torch.Tensor


def _forward(
    stack: Stack,
    embedded: list[torch.Tensor],
    batch: Batch,
    policies: Sequence[LayerPolicy] | None,
    kept: list[Kept | torch.Tensor | Parked],
    *,
    watch: Watch | None,
) -> tuple[torch.Tensor, _Last]:
    """Runs all layers; appends what each keeps unless there are no policies."""
    x, delta = embedded.pop(), None
    for number, layer in enumerate(stack.layers):
        x, delta, parts = layer.forward(x, delta, batch)
        if policies is not None:
            kept.append(_reduced(stack, number, parts, policies[number]))
        del parts
        if watch is not None:
            watch(number)
    out = torch.empty_like(x)
    x, scale = norm.add_norm(x, delta, stack.last_norm, out)
    return out, _Last(x, scale)


def _reduced(stack: Stack, number: int, parts: Kept, policy: LayerPolicy) -> Kept | torch.Tensor | Parked:
    if policy is LayerPolicy.KEEP:
        return parts
    if policy is LayerPolicy.RECOMPUTE:
        return parts.x
    return stack.offload.park(number, parts.x)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        stack: Stack,
        embedded: list[torch.Tensor],
        batch: Batch,
        policies: tuple[LayerPolicy, ...],
        watch: Watch | None,
        *parameters: torch.nn.Parameter,
    ) -> torch.Tensor:
        kept: list[Kept | torch.Tensor | Parked] = []
        out, ctx.last = _forward(stack, embedded, batch, policies, kept, watch=watch)
        ctx.stack, ctx.batch, ctx.kept = stack, batch, kept
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (out_grad,) = grads
        stack, batch, kept = ctx.stack, ctx.batch, ctx.kept
        hidden = stack.layers[0].hidden
        room = max(max(layer.o.room, layer.down.room) for layer in stack.layers)
        grad = torch.empty(out_grad.shape[0], hidden + room, dtype=out_grad.dtype, device=out_grad.device)
        norm.norm_backward(out_grad, ctx.last.x, ctx.last.scale, stack.last_norm, residual=None, out=grad[:, :hidden])
        ctx.last = None
        found: list[list[torch.Tensor]] = []
        for number in reversed(range(len(stack.layers))):
            parts = kept.pop()
            if number and isinstance(kept[-1], Parked):
                stack.offload.prefetch(kept[-1])
            if isinstance(parts, Parked):
                parts = stack.offload.fetch(parts)
            if isinstance(parts, torch.Tensor):
                parts = stack.layers[number].replay(parts, batch)
            found.append(stack.layers[number].backward(grad, parts, batch, wants_input=number > 0))
            del parts
        flat = [one for layer in reversed(found) for one in layer]
        return None, None, None, None, None, *flat
