"""The GPU memory of a forward and backward pass, as a function of its tokens and of what its layers keep.

Pure. First from the shapes alone (`of_shape`), then as the first step measured it (`corrected`).

Two moments decide, T tokens and L layers of which the last K keep their activations:

    at the loss                  saved(T) + the loss's tiles + hidden states and their gradients
    at a layer's backward pass   saved(T) + a replayed layer, when K is 0, + gradients on their way

The layers that keep are the last ones: their memory is free again before the first replay needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from loraline_trainer.engine import policy
from loraline_trainer.engine.policy import LayerPolicy, LayerShape

IN_FLIGHT = 2
"""Inputs of offloaded layers that are on the GPU at a time: the one in use and the one that is fetched ahead."""

ON_GPU = 2
"""Last layers whose inputs are never offloaded: they are needed before a copy could come and go."""


AT_LOSS = 4
"""Copies of the hidden states at the loss: before and after the last norm, those that predict, and their gradient."""


@dataclass(frozen=True, slots=True)
class Split:
    """What the layers keep: first the offloaded ones, then those that compute again, then those that keep all."""

    layers: int
    kept: int
    offloaded: int = 0

    @property
    def recomputed(self) -> int:
        """Layers that keep their input on the GPU and compute the rest again."""
        return self.layers - self.kept - self.offloaded

    def policies(self) -> tuple[LayerPolicy, ...]:
        """One policy a layer."""
        return (
            *[LayerPolicy.OFFLOAD] * self.offloaded,
            *[LayerPolicy.RECOMPUTE] * self.recomputed,
            *[LayerPolicy.KEEP] * self.kept,
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What a pass took.

    Attributes:
        kept_bytes, input_bytes: bytes a token of one layer that keeps, and of one that computes again; None when no
            layer did.
        extra_bytes: peak of the pass beyond what its layers had saved.
    """

    tokens: int
    kept_bytes: float | None
    input_bytes: float | None
    extra_bytes: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """GPU bytes of a pass.

    Attributes:
        kept_bytes, input_bytes: bytes a token of one layer that keeps its activations, or its input alone.
        working_bytes: bytes a token of the gradients on their way.
        loss_bytes: tiles of the loss, however many tokens there are.
        loss_token_bytes: bytes a token of the hidden states around the loss, and of their gradients.
        constant_bytes: buffers that are there all the time.
    """

    layers: int
    kept_bytes: float
    input_bytes: float
    working_bytes: float
    loss_bytes: int = 0
    loss_token_bytes: float = 0.0
    constant_bytes: int = 0

    def needed(self, tokens: int, split: Split) -> int:
        """Bytes that a pass of that many tokens takes at its peak."""
        inputs = self.input_bytes * (split.recomputed + min(split.offloaded, IN_FLIGHT))
        saved = tokens * (inputs + self.kept_bytes * split.kept)
        replayed = 0.0 if split.kept else self.kept_bytes
        backward = tokens * (replayed + self.working_bytes)
        at_loss = self.loss_bytes + tokens * self.loss_token_bytes
        return round(self.constant_bytes + saved + max(at_loss, backward))

    def pinned(self, tokens: int, split: Split) -> int:
        """Bytes of pinned host memory that a pass takes."""
        return round(tokens * self.input_bytes * split.offloaded)

    def corrected(self, measured: Measured) -> Footprint:
        """The footprint with what a pass measured in the place of what was reckoned."""
        kept = measured.kept_bytes or self.kept_bytes
        extra = max(0, measured.extra_bytes - self.constant_bytes)
        replayed = 0.0 if measured.kept_bytes else kept  # a pass in which no layer kept has replayed one at its peak
        return replace(
            self,
            kept_bytes=kept,
            input_bytes=measured.input_bytes or self.input_bytes,
            working_bytes=max(0.0, extra / measured.tokens - replayed),
            loss_bytes=min(self.loss_bytes, extra),
            loss_token_bytes=min(self.loss_token_bytes, extra / measured.tokens),
        )


def of_shape(shape: LayerShape, layers: int, *, loss_bytes: int = 0) -> Footprint:
    """The footprint of a model of equal layers, reckoned from their shape."""
    return Footprint(
        layers=layers,
        kept_bytes=policy.bytes_per_token(shape, LayerPolicy.KEEP),
        input_bytes=policy.bytes_per_token(shape, LayerPolicy.RECOMPUTE),
        working_bytes=policy.working_bytes_per_token(shape),
        loss_bytes=loss_bytes,
        loss_token_bytes=AT_LOSS * shape.hidden * shape.element_bytes,
        constant_bytes=policy.scratch_bytes(shape),
    )
