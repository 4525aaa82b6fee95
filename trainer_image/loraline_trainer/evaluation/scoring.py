"""The loss of a model on held-out rows, without logits that are not needed at the time.

Where the engine knows the output layer, logits exist for a tile of the counted tokens at a time, however long a row is,
on CPUs too. Elsewhere the model gives the logits of all counted tokens of a pass. Both round alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from loraline_trainer.data.rendering import IGNORED, TokenRow
from loraline_trainer.engine import build, cross_entropy
from loraline_trainer.engine.cross_entropy import Head
from loraline_trainer.model.loading import Loaded
from loraline_trainer.training import batches

SCORED_TOKENS = 1024
"""Tokens of a forward pass, unless a single row has more."""

TILE_BYTES = 64 * 2**20
"""Most bytes of logits at a time: 261 tokens of a vocabulary of 128,256 in bfloat16. CPUs also make them float32."""


def loss(model: Any, loaded: Loaded, rows: Sequence[TokenRow]) -> float:
    """The mean loss over all counted tokens of the rows, in nats."""
    was_training = model.training
    model.eval()
    head = build.head_for(model)
    total, counted = 0.0, 0
    with torch.no_grad(), loaded.computing():
        for group in batches.bounded(rows, SCORED_TOKENS):
            batch = batches.packed([batches.item(row) for row in group])
            group_total, group_counted = _sum(model, head, loaded.device, batch)
            total += group_total
            counted += group_counted
    model.train(was_training)
    return total / max(counted, 1)


def _sum(model: Any, head: Head | None, device: torch.device, batch: batches.Batch) -> tuple[float, int]:
    """The summed loss over the counted tokens of a packed batch, and their number."""
    labels = batch.pop("labels")[0].to(device)  # [tokens]
    positions = (labels != IGNORED).nonzero()[:, 0]  # [counted]
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    before, targets = positions - 1, labels[positions]  # the token at p is predicted at p - 1
    if head is None:
        logits = model(**inputs, use_cache=False, logits_to_keep=before).logits[0]  # [counted, vocabulary]
        summed = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
    else:
        decoder = build.decoder_of(build.causal_of(model))
        hidden = decoder(**inputs, use_cache=False).last_hidden_state[0]  # [tokens, hidden]
        counted = hidden.index_select(0, before).to(head.weight.dtype)
        summed = cross_entropy.summed(counted, targets, head, TILE_BYTES)
    return float(summed), len(positions)
