"""Micro-batches for the engine: documents end to end, with all that it must know of them, built on the CPU.

The same batch, but for its additional entries, is what the PEFT path takes when sequences are packed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.layout import Layout

Item = Mapping[str, Sequence[int]]
"""`input_ids` and `labels` of one document; the first label is `IGNORED`."""

IGNORED = -100
"""The label of a token that does not count."""


def counted(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where the counted tokens of a row are predicted, which is one place before they stand, and what they are."""
    places = [place for place, label in enumerate(labels) if label != IGNORED]
    return [place - 1 for place in places], [labels[place] for place in places]


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """The documents as one row.

    Returns: `input_ids`, `labels`, `position_ids` [1, T] as transformers has them; `bounds` [documents + 1],
        `predict_at` and `targets` [counted tokens], and `lengths`, a tuple of numbers, for the engine.
    """
    lengths = tuple(len(item["input_ids"]) for item in items)
    ids = [token for item in items for token in item["input_ids"]]
    labels = [label for item in items for label in (IGNORED, *item["labels"][1:])]
    predict_at, targets = counted(labels)
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([[place for length in lengths for place in range(length)]]),
        "bounds": torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32),
        "predict_at": torch.tensor(predict_at, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "lengths": lengths,
    }


def moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch on a device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def loss(engine: Engine, batch: Mapping[str, Any]) -> torch.Tensor:
    """The summed loss over the counted tokens of a collated batch, in nats."""
    layout = Layout(tuple(batch["lengths"]), batch["bounds"], batch["position_ids"][0])
    return engine.loss(batch["input_ids"][0], layout, batch["predict_at"], batch["targets"])
