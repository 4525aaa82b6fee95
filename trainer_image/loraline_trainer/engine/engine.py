"""The engine of one model: hidden states and loss of a micro-batch, with the gradients of every adapter.

It holds views of the model's weights and nothing of its own but a scratch buffer. Generation stays with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from loraline_trainer.engine import cross_entropy, policy, rotary, stack
from loraline_trainer.engine.cross_entropy import Head
from loraline_trainer.engine.embedding import Embedding
from loraline_trainer.engine.layer import Batch
from loraline_trainer.engine.layout import Layout
from loraline_trainer.engine.policy import LayerPolicy, LayerShape
from loraline_trainer.engine.stack import Stack


class Engine:
    """Forward and backward passes of a PEFT model."""

    def __init__(
        self, *, stack: Stack, embedding: Embedding, rotary: torch.nn.Module, angles_by_layer_type: bool, head: Head
    ) -> None:
        self._stack = stack
        self._embedding = embedding
        self._tile_bytes = cross_entropy.TILE_BYTES
        self._rotary = rotary
        self._by_type = angles_by_layer_type
        self._head = head
        self._policies: tuple[LayerPolicy, ...] = (LayerPolicy.KEEP,) * len(stack.layers)
        self._scratch: torch.Tensor | None = None
        self.on_layer: Callable[[int], None] | None = None
        """Called after each layer's forward pass with the layer's number."""

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's parameters: PEFT's own."""
        return self._stack.parameters

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return len(self._stack.layers)

    @property
    def policies(self) -> tuple[LayerPolicy, ...]:
        """What each layer keeps, first layer first."""
        return self._policies

    def set_policies(self, policies: Sequence[LayerPolicy]) -> None:
        """Says what each layer keeps in the passes to come.

        Raises:
            ValueError: there is not one policy a layer.
        """
        if len(policies) != len(self._stack.layers):
            raise ValueError(f"{len(policies)} policies for {len(self._stack.layers)} layers; give one for each")
        self._policies = tuple(policies)

    @property
    def shape(self) -> LayerShape:
        """The shape of a layer, for `policy.bytes_per_token`."""
        layer = self._stack.layers[0]
        return LayerShape(
            hidden=layer.hidden,
            intermediate=layer.intermediate,
            q_heads=layer.heads.queries,
            kv_heads=layer.heads.keys,
            head_dim=layer.heads.width,
            fold_qkv=layer.qkv.fold,
            fold_o=layer.o.fold,
            fold_gate_up=layer.gate_up.fold,
            fold_down=layer.down.fold,
            element_bytes=self.dtype.itemsize,
            sandwich_norms=layer.norm_mlp_out is not None,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations."""
        return self._head.weight.dtype

    def bytes_per_token(self, kept: LayerPolicy) -> int:
        """GPU bytes that a layer keeps for each token until its backward pass."""
        return policy.bytes_per_token(self.shape, kept)

    def loss_bytes(self) -> int:
        """GPU bytes of the loss's tile of logits, at most."""
        row = self._head.weight.shape[0] * self.dtype.itemsize
        return max(row, self._tile_bytes // row * row)

    def set_loss_bytes(self, most: int) -> None:
        """Says how large a tile of logits may be; smaller ones save memory, and below 128 MiB cost time."""
        self._tile_bytes = most

    def embeddings_on_host(self) -> AbstractContextManager[None]:
        """Keeps the embeddings in pinned host memory for a while, if they can leave the GPU: saves V x H x 2 bytes.

        Only the engine can run meanwhile; the model itself, to generate, needs them back.
        """
        return self._embedding.on_host()

    def hidden(self, ids: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The hidden states behind the last norm. [T, H]

        Args:
            ids: documents end to end. [T]
        """
        with torch.no_grad():
            embedded = [self._embedding(ids).to(self.dtype)]
            batch = Batch(layout, self._angles(layout), self._scratch_on(ids.device))
        return stack.run(self._stack, embedded, batch, self._policies, self.on_layer)

    def loss(self, ids: torch.Tensor, layout: Layout, predict_at: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The summed loss over the counted tokens, in nats.

        Args:
            ids: [T]
            predict_at: where the counted tokens are predicted: one before they stand. [C]
            targets: the counted tokens. [C]
        """
        hidden = self.hidden(ids, layout)
        return cross_entropy.summed(hidden.index_select(0, predict_at), targets, self._head, self._tile_bytes)

    def _angles(self, layout: Layout) -> dict[str, rotary.Angles]:
        # The rotary module takes type and device from its input, and rounds to that type: float32 rounds nothing.
        like = torch.empty(0, dtype=torch.float32, device=layout.positions.device)
        positions = layout.positions[None]
        if not self._by_type:
            return {"": rotary.angles(*self._rotary(like, positions))}
        kinds = {layer.kind for layer in self._stack.layers}
        return {kind: rotary.angles(*self._rotary(like, positions, kind)) for kind in kinds}

    def _scratch_on(self, device: torch.device) -> torch.Tensor:
        if self._scratch is None:
            elements = max(group.matrix_elements for layer in self._stack.layers for group in layer.groups)
            self._scratch = torch.empty(elements, dtype=self.dtype, device=device)
        return self._scratch
