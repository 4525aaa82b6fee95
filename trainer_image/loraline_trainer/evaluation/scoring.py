"""The loss of a model on held-out rows, without keeping logits that do not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from loraline_trainer.data.rendering import IGNORED, TokenRow
from loraline_trainer.model.loading import Loaded
from loraline_trainer.training import batches

SCORED_TOKENS = 1024
"""Tokens of a forward pass: their logits take 0.5 GiB at a vocabulary of 128,000 in float32."""


def loss(model: Any, loaded: Loaded, rows: Sequence[TokenRow]) -> float:
    """The mean loss over all counted tokens of the rows, in nats."""
    was_training = model.training
    model.eval()
    total, counted = 0.0, 0
    with torch.no_grad(), loaded.computing():
        for group in batches.bounded(rows, SCORED_TOKENS):
            batch = batches.packed([batches.item(row) for row in group])
            group_total, group_counted = _sum(model, loaded.device, batch)
            total += group_total
            counted += group_counted
    model.train(was_training)
    return total / max(counted, 1)


def _sum(model: Any, device: torch.device, batch: batches.Batch) -> tuple[float, int]:
    """The summed loss over the counted tokens of a packed batch, and their number."""
    labels = batch.pop("labels")[0].to(device)  # [tokens]
    positions = (labels != IGNORED).nonzero()[:, 0]  # [counted]
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    # The token at p is predicted at p - 1; logits: [1, counted, vocabulary]
    logits = model(**inputs, use_cache=False, logits_to_keep=positions - 1).logits
    summed = torch.nn.functional.cross_entropy(logits[0].float(), labels[positions], reduction="sum")
    return float(summed), len(positions)
