"""One decoder layer, forward and backward, with every pass over memory accounted for.

Letters: T tokens, H hidden width, I intermediate width, N q, k and v columns together.
A layer takes (x, delta): the residual stream and what is still to be added to it, so that the sum, and the norm behind
it, are one pass. It gives back the same. `Kept` is what the backward pass needs; norm outputs, the gated product and
down_proj's product are not in it: the first are not needed (see `Group.adapter_gradients`), the second is rebuilt in
the pass that computes its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loraline_trainer.engine import attention, gated, norm, rotary, switches
from loraline_trainer.engine.attention import Attended, Rules
from loraline_trainer.engine.gated import Activation
from loraline_trainer.engine.group import Group
from loraline_trainer.engine.layout import Layout
from loraline_trainer.engine.norm import Norm
from loraline_trainer.engine.rotary import Angles


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of the attention."""

    queries: int
    keys: int
    width: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What all layers of a pass share.

    Attributes:
        angles: by kind of layer; Gemma 3 turns local and global layers differently.
        scratch: holds one group's matrix at a time.
    """

    layout: Layout
    angles: dict[str, Angles]
    scratch: torch.Tensor


@dataclass(slots=True)
class Kept:
    """What the backward pass of a layer needs.

    Attributes:
        x: the residual stream that came in. [T, H]
        x_scale, middle_scale: 1 / rms of x and middle. [T]
        qkv: queries and keys rotated, unless heads have a norm: then as the product gave them. [T, N + F]
        middle: the residual stream between attention and MLP. [T, H]
        gate_up: [T, 2 I + F]
        inner_*: the adapters' inner products. [T, F]
        attention_out, mlp_out, *_scale: before and behind the norms of their own (Gemma). [T, H], [T]
    """

    x: torch.Tensor
    x_scale: torch.Tensor
    qkv: torch.Tensor
    attended: Attended
    inner_qkv: torch.Tensor | None
    inner_o: torch.Tensor | None
    middle: torch.Tensor
    middle_scale: torch.Tensor
    gate_up: torch.Tensor
    inner_gate_up: torch.Tensor | None
    inner_down: torch.Tensor | None = None
    attention_out: torch.Tensor | None = None
    attention_out_scale: torch.Tensor | None = None
    mlp_out: torch.Tensor | None = None
    mlp_out_scale: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights and rules of one decoder layer.

    Attributes:
        kind: key of `Batch.angles`.
        q_norm, k_norm: of each head (Qwen3, Gemma 3).
        norm_attention, norm_mlp: before attention and MLP.
        norm_attention_out, norm_mlp_out: behind them, before they are added (Gemma).
    """

    qkv: Group
    o: Group
    gate_up: Group
    down: Group
    norm_attention: Norm
    norm_mlp: Norm
    norm_attention_out: Norm | None
    norm_mlp_out: Norm | None
    q_norm: Norm | None
    k_norm: Norm | None
    heads: Heads
    rules: Rules
    activation: Activation
    kind: str

    @property
    def groups(self) -> tuple[Group, ...]:
        """In the order in which gradients are given back."""
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def hidden(self) -> int:
        """H."""
        return self.qkv.columns

    @property
    def intermediate(self) -> int:
        """I."""
        return self.down.columns

    def forward(
        self, x: torch.Tensor, delta: torch.Tensor | None, batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor, Kept]:
        """The residual stream, what is to be added to it, and what the backward pass needs."""
        kept = self._until_gate_up(x, delta, batch)
        product = _wide(kept.gate_up, self.intermediate, self.down.room)
        gated.gated(kept.gate_up[:, : 2 * self.intermediate], self.activation, product[:, : self.intermediate])
        out = _like(product, self.hidden)
        kept.inner_down = self.down.forward(self.down.matrix(batch.scratch), product, out)
        if self.norm_mlp_out is not None:
            kept.mlp_out = out
            out = torch.empty_like(out)
            _, kept.mlp_out_scale = norm.add_norm(kept.mlp_out, None, self.norm_mlp_out, out)
        return kept.middle, out, kept

    def replay(self, x: torch.Tensor, batch: Batch) -> Kept:
        """What the backward pass needs, from the layer's input alone.

        down_proj's product is left out, for nothing in the backward pass reads it (but a norm behind it does).
        """
        if self.norm_mlp_out is not None or not switches.now().skip_down:
            return self.forward(x, None, batch)[2]
        return self._until_gate_up(x, None, batch)

    def _until_gate_up(self, x: torch.Tensor, delta: torch.Tensor | None, batch: Batch) -> Kept:
        hidden = self.hidden
        normed = _wide(x, hidden, self.qkv.room)
        x, x_scale = norm.add_norm(x, delta, self.norm_attention, normed[:, :hidden])
        qkv = _wide(x, self.qkv.rows, self.qkv.room)
        inner_qkv = self.qkv.forward(self.qkv.matrix(batch.scratch), normed, qkv[:, : self.qkv.rows])
        if self.q_norm is None:
            turned = qkv[:, : (self.heads.queries + self.heads.keys) * self.heads.width]
            turned = turned.unflatten(1, (-1, self.heads.width))
            rotary.rotate(turned, batch.angles[self.kind], None, turned)
        q, k, v = self._ready(qkv, batch)
        attended = attention.attend(q, k, v, batch.layout, self.rules)
        del normed, q, k, v

        mixed = _wide(x, self.o.columns, self.o.room)
        mixed[:, : self.o.columns].copy_(attended.out.flatten(1))
        out = _like(x, hidden)
        inner_o = self.o.forward(self.o.matrix(batch.scratch), mixed, out)
        del mixed
        attention_out = attention_out_scale = None
        if self.norm_attention_out is not None:
            attention_out, out = out, torch.empty_like(out)
            _, attention_out_scale = norm.add_norm(attention_out, None, self.norm_attention_out, out)

        normed = _wide(x, hidden, self.gate_up.room)
        middle, middle_scale = norm.add_norm(x, out, self.norm_mlp, normed[:, :hidden])
        gate_up = _wide(x, self.gate_up.rows, self.gate_up.room)
        inner_gate_up = self.gate_up.forward(
            self.gate_up.matrix(batch.scratch), normed, gate_up[:, : self.gate_up.rows]
        )
        return Kept(
            x, x_scale, qkv, attended, inner_qkv, inner_o, middle, middle_scale, gate_up, inner_gate_up,
            attention_out=attention_out, attention_out_scale=attention_out_scale,
        )  # fmt: skip

    def backward(self, grad: torch.Tensor, kept: Kept, batch: Batch, *, wants_input: bool) -> list[torch.Tensor]:
        """The adapters' gradients, group by group; turns `grad` into the gradient of the layer's input.

        Args:
            grad: of the layer's output in the first H columns; the others are for the adapters. [T, H + F]
        """
        below = self._mlp_backward(grad, kept, batch)
        return self._attention_backward(grad, kept, batch, wants_input=wants_input) + below

    def _mlp_backward(self, grad: torch.Tensor, kept: Kept, batch: Batch) -> list[torch.Tensor]:
        hidden, width = self.hidden, self.intermediate
        out_grad = grad[:, : hidden + self.down.room]
        if self.norm_mlp_out is not None:
            assert kept.mlp_out is not None
            assert kept.mlp_out_scale is not None
            out_grad = _wide(grad, hidden, self.down.room)
            norm.norm_backward(
                grad[:, :hidden], kept.mlp_out, kept.mlp_out_scale, self.norm_mlp_out, residual=None,
                out=out_grad[:, :hidden],
            )  # fmt: skip
        matrix = self.down.gradient_matrix(batch.scratch)
        product, outer = self.down.backward(matrix, out_grad)
        assert product is not None
        gated.gated_backward(product, kept.gate_up[:, : 2 * width], self.activation)
        inner_down = kept.inner_down
        if inner_down is None and self.down.fold:
            inner_down = self.down.inner(matrix, product)
        found_down = self.down.adapter_gradients(out_grad, outer, inner_down, product)
        del product

        normed_grad, outer = self.gate_up.backward(self.gate_up.gradient_matrix(batch.scratch), kept.gate_up)
        assert normed_grad is not None
        found = self.gate_up.adapter_gradients(
            kept.gate_up,
            outer,
            kept.inner_gate_up,
            kept.middle,
            row_scale=kept.middle_scale,
            gain=self.norm_mlp.gain(),
        )
        norm.norm_backward(
            normed_grad, kept.middle, kept.middle_scale, self.norm_mlp, residual=grad[:, :hidden],
            out=grad[:, :hidden],
        )  # fmt: skip
        return found + found_down

    def _attention_backward(
        self, grad: torch.Tensor, kept: Kept, batch: Batch, *, wants_input: bool
    ) -> list[torch.Tensor]:
        hidden = self.hidden
        out_grad = grad[:, : hidden + self.o.room]
        if self.norm_attention_out is not None:
            assert kept.attention_out is not None
            assert kept.attention_out_scale is not None
            out_grad = _wide(grad, hidden, self.o.room)
            norm.norm_backward(
                grad[:, :hidden], kept.attention_out, kept.attention_out_scale, self.norm_attention_out,
                residual=None, out=out_grad[:, :hidden],
            )  # fmt: skip
        mixed_grad, outer = self.o.backward(self.o.gradient_matrix(batch.scratch), out_grad)
        assert mixed_grad is not None
        mixed = kept.attended.out.flatten(1)
        found_o = self.o.adapter_gradients(out_grad, outer, kept.inner_o, mixed)

        q, k, v = self._ready(kept.qkv, batch)
        mixed_grad = mixed_grad.unflatten(1, (self.heads.queries, self.heads.width))
        grads = attention.attend_backward(mixed_grad, q, k, v, kept.attended, layout=batch.layout, rules=self.rules)
        self._unrotate(grads, kept.qkv, batch)
        del q, k, v, grads, mixed_grad

        matrix = self.qkv.gradient_matrix(batch.scratch)
        normed_grad, outer = self.qkv.backward(matrix, kept.qkv, wants_input=wants_input)
        found = self.qkv.adapter_gradients(
            kept.qkv,
            outer,
            kept.inner_qkv,
            kept.x,
            row_scale=kept.x_scale,
            gain=self.norm_attention.gain(),
        )
        if normed_grad is not None:
            norm.norm_backward(
                normed_grad, kept.x, kept.x_scale, self.norm_attention, residual=grad[:, :hidden],
                out=grad[:, :hidden],
            )  # fmt: skip
        return found + found_o

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, each [T, heads, D], as views."""
        queries, keys, width = self.heads.queries, self.heads.keys, self.heads.width
        heads = qkv[:, : self.qkv.rows].unflatten(1, (queries + 2 * keys, width))
        return heads[:, :queries], heads[:, queries : queries + keys], heads[:, queries + keys :]

    def _ready(self, qkv: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the attention takes; with norms of the heads it is built anew each time."""
        q, k, v = self._split(qkv)
        if self.q_norm is None or self.k_norm is None:
            return q, k, v
        turn = batch.angles[self.kind]
        ready_q, ready_k = (torch.empty(part.shape, dtype=part.dtype, device=part.device) for part in (q, k))
        rotary.rotate(q, turn, self.q_norm, ready_q)
        rotary.rotate(k, turn, self.k_norm, ready_k)
        return ready_q, ready_k, v

    def _unrotate(
        self, grads: tuple[torch.Tensor, torch.Tensor, torch.Tensor], qkv: torch.Tensor, batch: Batch
    ) -> None:
        """Puts the gradients of queries, keys and values in their places."""
        q, k, v = self._split(qkv)
        turn = batch.angles[self.kind]
        rotary.rotate_backward(grads[0], q, turn, self.q_norm, q)
        rotary.rotate_backward(grads[1], k, turn, self.k_norm, k)
        v.copy_(grads[2])


def _wide(like: torch.Tensor, width: int, fold: int) -> torch.Tensor:
    """An empty buffer of that many columns and room for an adapter behind them."""
    return torch.empty(like.shape[0], width + fold, dtype=like.dtype, device=like.device)


def _like(like: torch.Tensor, width: int) -> torch.Tensor:
    return _wide(like, width, 0)
