"""What a decoder layer keeps for its backward pass, and how many bytes a token that takes.

Pure: a planner decides from these numbers, the engine obeys.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

FOLD = 64
"""Adapter columns come in multiples of 64: the tile of the matrix units, and 128 bytes of bfloat16."""


class LayerPolicy(enum.Enum):
    """What a layer keeps between its forward and its backward pass."""

    KEEP = "keep"  # every product's result; norm outputs and the gated product are rebuilt
    RECOMPUTE = "recompute"  # its input; the rest is computed again, but for down_proj's product
    OFFLOAD = "offload"  # its input in pinned host memory; computed again as above


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One decoder layer, as far as memory goes.

    Attributes:
        hidden, intermediate: widths of the residual stream and of the gated product.
        q_heads, kv_heads, head_dim: of the attention.
        fold_qkv, fold_o, fold_gate_up, fold_down: adapter columns of each group, padded to `FOLD`.
        element_bytes: of an activation; 2 for bfloat16.
        sandwich_norms: attention and MLP outputs pass a norm before they are added (Gemma), so they are kept too.
    """

    hidden: int
    intermediate: int
    q_heads: int
    kv_heads: int
    head_dim: int
    fold_qkv: int = FOLD
    fold_o: int = FOLD
    fold_gate_up: int = FOLD
    fold_down: int = FOLD
    element_bytes: int = 2
    sandwich_norms: bool = False

    @property
    def qkv_width(self) -> int:
        """Columns of the concatenated query, key and value product."""
        return (self.q_heads + 2 * self.kv_heads) * self.head_dim

    @property
    def attention_width(self) -> int:
        """Columns of the attention's output."""
        return self.q_heads * self.head_dim


def padded_rank(rank: int) -> int:
    """Adapter columns of a group whose ranks sum to that many."""
    return -(-rank // FOLD) * FOLD


def bytes_per_token(shape: LayerShape, policy: LayerPolicy) -> int:
    """GPU bytes that a layer keeps for each token of a micro-batch until its backward pass."""
    inputs = shape.hidden * shape.element_bytes
    if policy is LayerPolicy.OFFLOAD:
        return 0
    if policy is LayerPolicy.RECOMPUTE:
        return inputs
    return inputs + replayed_bytes_per_token(shape)


def replayed_bytes_per_token(shape: LayerShape) -> int:
    """GPU bytes a token that KEEP holds beyond the layer's input, and a replay needs for one layer at a time."""
    columns = (
        shape.qkv_width
        + shape.fold_qkv
        + shape.attention_width
        + shape.hidden  # the residual stream between attention and MLP
        + 2 * shape.intermediate
        + shape.fold_gate_up
        # the adapters' inner products
        + shape.fold_qkv
        + shape.fold_o
        + shape.fold_gate_up
        + shape.fold_down
        + (2 * shape.hidden if shape.sandwich_norms else 0)
    )
    float32s = shape.q_heads + 2 + (2 if shape.sandwich_norms else 0)  # log-sum-exp of the attention, norms' scales
    return columns * shape.element_bytes + 4 * float32s


def working_bytes_per_token(shape: LayerShape) -> int:
    """GPU bytes a token of the backward pass of one layer, beyond what it kept: the most that lives at once.

    The gated product's gradient beside the residual gradient, or three gradients of the attention beside it.
    """
    residual = shape.hidden + max(shape.fold_o, shape.fold_down)
    mlp = shape.intermediate + shape.hidden + shape.fold_down
    attention = 2 * shape.attention_width + shape.qkv_width + shape.hidden
    return (residual + max(mlp, attention)) * shape.element_bytes


def scratch_bytes(shape: LayerShape) -> int:
    """GPU bytes of the buffer that holds one group's weights, dequantized, with its adapter around them."""
    groups = (
        (shape.qkv_width, shape.hidden, shape.fold_qkv),
        (shape.hidden, shape.attention_width, shape.fold_o),
        (2 * shape.intermediate, shape.hidden, shape.fold_gate_up),
        (shape.hidden, shape.intermediate, shape.fold_down),
    )
    return max((rows + fold) * (columns + fold) for rows, columns, fold in groups) * shape.element_bytes
