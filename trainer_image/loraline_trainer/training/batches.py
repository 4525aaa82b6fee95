"""Lays rows of tokens out as batches: packed end to end, or padded side by side.

Packed sequences do not see each other: transformers builds a block-diagonal mask from position_ids that start again at
0, when there is neither an attention_mask nor a cache. So a packed batch has no attention_mask, and use_cache is off.
Shapes: [batch, tokens].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from loraline_trainer.data.rendering import IGNORED, TokenRow

Batch = dict[str, torch.Tensor]
Item = Mapping[str, Sequence[int]]
"""`input_ids` and `labels` of one row; the first label is IGNORED."""


def item(row: TokenRow) -> dict[str, list[int]]:
    """A row as a batch takes it."""
    return {"input_ids": list(row.ids), "labels": list(row.labels)}


def packed(items: Sequence[Item]) -> Batch:
    """The rows end to end in one: [1, sum of lengths]."""
    ids = [token for one in items for token in one["input_ids"]]
    labels = [label for one in items for label in one["labels"]]
    positions = [position for one in items for position in range(len(one["input_ids"]))]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.tensor([positions]),
    }


def padded(items: Sequence[Item], pad_id: int) -> Batch:
    """The rows side by side, filled up at the right: [rows, longest]."""
    longest = max(len(one["input_ids"]) for one in items)

    def filled(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (longest - len(values))]

    return {
        "input_ids": torch.tensor([filled(one["input_ids"], pad_id) for one in items]),
        "labels": torch.tensor([filled(one["labels"], IGNORED) for one in items]),
        "attention_mask": torch.tensor([filled([1] * len(one["input_ids"]), 0) for one in items]),
    }


def collator(*, packing: bool, pad_id: int) -> Callable[[Sequence[Item]], Batch]:
    """What makes a batch of rows; of none it makes a batch in which nothing counts."""
    nothing = {"input_ids": [pad_id, pad_id], "labels": [IGNORED, IGNORED]}

    def collate(items: Sequence[Item]) -> Batch:
        return packed(items or [nothing]) if packing else padded(items or [nothing], pad_id)

    return collate


def bounded(rows: Sequence[TokenRow], max_tokens: int) -> Iterator[list[TokenRow]]:
    """The rows in groups of at most that many tokens, or of one row."""
    group: list[TokenRow] = []
    size = 0
    for row in rows:
        if group and size + len(row.ids) > max_tokens:
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row.ids)
    if group:
        yield group
