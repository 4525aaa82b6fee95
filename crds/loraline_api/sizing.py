"""What a recipe takes on a card: the memory at each level, whether the card has it, and the speed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loraline_api import memory, speed
from loraline_api.gpus import Gpu
from loraline_api.memory import GIB, RESERVE_BYTES, Activations, Recipe
from loraline_api.model_shape import ModelShape

SHORT_SEQUENCE_TOKENS = 512
"""Tokens of the sequence that a card is refused for: examples may be far shorter than maxSeqLength."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """A recipe and the shape of its base model."""

    recipe: Recipe
    shape: ModelShape

    @property
    def tokens(self) -> int:
        """Tokens of a forward pass: the micro-batch of the recipe, or one full sequence."""
        return (self.recipe.training.micro_batch_size or 1) * self.recipe.training.max_seq_length

    def bytes(self, activations: Activations) -> int:
        """Memory of a card for such a forward pass."""
        return memory.estimate(self.shape, self.recipe, activations, self.tokens).total

    @property
    def least_bytes(self) -> int:
        """Memory without which nothing trains: one short sequence at a time, nothing kept."""
        tokens = min(self.recipe.training.max_seq_length, SHORT_SEQUENCE_TOKENS)
        return memory.estimate(self.shape, self.recipe, Activations.OFFLOADED, tokens).total

    def is_refused_by(self, gpu: Gpu) -> bool:
        """Whether the card cannot train it in any way."""
        return self.least_bytes > gpu.memory_gib * GIB

    def fits(self, gpu: Gpu, activations: Activations) -> bool:
        """Whether the card has the memory, with some to spare for what is not counted."""
        return self.bytes(activations) + RESERVE_BYTES <= gpu.memory_gib * GIB

    def fitting(self, catalogue: Mapping[str, Gpu]) -> list[str]:
        """Cards that have room for recomputed activations, smallest first."""
        cards = [(gpu.memory_gib, name) for name, gpu in catalogue.items() if self.fits(gpu, Activations.RECOMPUTED)]
        return [name for _, name in sorted(cards)]

    def tokens_per_second(self, gpu: Gpu, count: int = 1) -> float:
        """Speed on so many of these cards; nothing is computed twice where the card has the memory."""
        kept = Activations.KEPT if self.fits(gpu, Activations.KEPT) else Activations.RECOMPUTED
        length = self.recipe.training.max_seq_length
        operations = speed.operations_per_token(self.shape, self.recipe, kept, length)
        return speed.tokens_per_second(operations, gpu.bf16_tflops, gpu.efficiency, count)
