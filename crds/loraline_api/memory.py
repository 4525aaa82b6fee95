"""How much GPU memory a fine-tune takes: counted from the model's shape and the recipe, before any GPU is taken.

An estimate, within about a tenth of what was measured where it could be compared; docs/policy.md has the comparison.
Bytes throughout. Time is estimated in `speed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from loraline_api.finetune import Adapter, Quantization, Training
from loraline_api.model_shape import ModelShape

GIB = 1 << 30

NF4_BYTES = 0.5 + 4 / 64
"""Bytes of an NF4 weight: four bits, and a float32 constant for every block of 64 (QLoRA, arXiv 2305.14314)."""

DOUBLE_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""The same when the constants are 8-bit numbers in blocks of 256 of their own."""

PRODUCT_BYTES = 2
"""Bytes of a 16-bit number: activations, and weights turned back from NF4 for a product."""

ADAPTER_BYTES = {"adamw": 16, "adamw_8bit": 10, "paged_adamw_8bit": 10}
"""Bytes of an adapter's weight by optimizer: weight and gradient in float32, two moments in 32 or 8 bits."""

STOCK_COPIES = 2.087
"""What PEFT's copies, casts and dropout make of the activations that a transformers layer saves. Measured on an H100
and an H200: TRL 1.16 without checkpointing peaks at 44.5 GiB for 4,096 tokens and at 80.7 for 8,192."""

STOCK_LOSS_BYTES = 46
"""Bytes of hidden states and their gradients at the end of the model for each token and hidden unit, measured likewise:
TRL with checkpointing peaks at 11.2 GiB for 4,096 tokens and at 19.8 for 16,384."""

LOSS_TILE_TOKENS = 1024
"""Tokens whose logits are in memory at once: the loss is taken in tiles."""

RESERVE_BYTES = GIB
"""What a card needs beside what is counted here: the CUDA context, libraries, fragments. A round number."""


class Recipe(Protocol):
    """The parts of a fine-tune, or of its run, that decide about memory."""

    @property
    def adapter(self) -> Adapter:
        """The adapter."""

    @property
    def quantization(self) -> Quantization:
        """How the base model is held."""

    @property
    def training(self) -> Training:
        """Hyperparameters."""


class Activations(StrEnum):
    """What is kept of the forward pass for the backward one."""

    OFFLOADED = "offloaded"
    """Nothing on the GPU: inputs of layers wait in the host's memory. The least that a fine-tune can take."""

    RECOMPUTED = "recomputed"
    """The input of every layer: the rest is computed again (activation checkpointing)."""

    KEPT = "kept"
    """Everything: nothing is computed again, which is the fastest."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each GPU, by what holds them."""

    weights: int
    adapter: int
    """The adapter with its gradients and the optimizer's moments."""
    activations: int
    buffers: int
    """The largest matrix turned back from NF4, and a tile of logits."""

    @property
    def total(self) -> int:
        """All of them together."""
        return self.weights + self.adapter + self.activations + self.buffers


def estimate(shape: ModelShape, recipe: Recipe, activations: Activations, tokens: int) -> Memory:
    """The memory of each GPU.

    Args:
        tokens: tokens of a forward pass: microBatchSize sequences of their length.
    """
    adapter = shape.adapter_parameters(recipe.adapter.rank, recipe.adapter.target_modules)
    return Memory(
        weights=_weights(shape, recipe.quantization),
        adapter=adapter * ADAPTER_BYTES[recipe.training.optimizer],
        activations=tokens * _activation_bytes(shape, activations),
        buffers=_buffers(shape, recipe.quantization, tokens),
    )


def _weights(shape: ModelShape, quantization: Quantization) -> int:
    plain = 4 if quantization.compute_dtype == "float32" else PRODUCT_BYTES
    linear: float = plain
    if quantization.type == "nf4":
        linear = DOUBLE_NF4_BYTES if quantization.double_quant else NF4_BYTES
    return round(shape.linear_parameters * linear) + shape.embedding_parameters * plain


def _activation_bytes(shape: ModelShape, activations: Activations) -> int:
    """Bytes for each token. The working set of the layer that is being differentiated is there in any case."""
    hidden, inner, query, key = shape.hidden_size, shape.intermediate_size, shape.query_size, shape.key_size
    # Input, middle of the residual stream, queries, keys, values, attention's output, gate and up: with these, norms
    # and the gated product are cheap to make again.
    least = PRODUCT_BYTES * (2 * hidden + 2 * query + 2 * key + 2 * inner)
    if activations is Activations.OFFLOADED:
        gradients = PRODUCT_BYTES * (2 * hidden + 2 * inner)
        return least + gradients
    saved = STOCK_COPIES * (least + PRODUCT_BYTES * (2 * hidden + inner))
    loss = STOCK_LOSS_BYTES * hidden
    if activations is Activations.KEPT:
        return round(shape.num_hidden_layers * saved + loss)
    return round(shape.num_hidden_layers * PRODUCT_BYTES * hidden + saved + loss)


def _buffers(shape: ModelShape, quantization: Quantization, tokens: int) -> int:
    tile = min(tokens, LOSS_TILE_TOKENS) * shape.vocab_size * PRODUCT_BYTES
    if quantization.type == "none":
        return tile
    return tile + PRODUCT_BYTES * 2 * shape.hidden_size * shape.intermediate_size  # gate and up are one product
