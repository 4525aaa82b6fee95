"""Packing and padding: laying sequences out must not change what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from loraline_trainer.data.rendering import IGNORED, TokenRow
from loraline_trainer.training import batches

PAD = 3


def row(*ids: int, prompt: int = 2) -> TokenRow:
    labels = tuple(IGNORED if position < prompt else token for position, token in enumerate(ids))
    return TokenRow("line 1", ids, labels, prompt, len(ids), True)


ROWS = [row(11, 12, 13, 14, 15), row(20, 21, 22, prompt=1), row(31, 32, 33, 34, 35, 36, 37, prompt=3)]
ITEMS = [batches.item(one) for one in ROWS]


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    """The tiny model in float32, in training mode, as training sees it."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    loaded.config.use_cache = False
    return loaded.train()


def test_packed_sequences_do_not_see_each_other(model: Any) -> None:
    """Reference: each sequence alone."""
    batch = batches.packed(ITEMS)
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits[0]
        alone = torch.cat([model(input_ids=torch.tensor([one.ids]), use_cache=False).logits[0] for one in ROWS])
    assert (together - alone).abs().max() < 1e-5


def test_the_positions_matter() -> None:
    """Without positions that start again, packing would be one long text: the test above could not pass by chance."""
    assert batches.packed(ITEMS)["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 4, 5, 6]]


def gradients(model: Any, batch: batches.Batch) -> dict[str, torch.Tensor]:
    """Gradients of the loss summed over the counted tokens."""
    model.zero_grad()
    labels = batch["labels"][:, 1:]
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1]
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    ).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_gradients_of_a_batch_are_the_sum_of_those_of_its_sequences(model: Any, layout: str) -> None:
    alone = [gradients(model, batches.packed([item])) for item in ITEMS]
    together = gradients(model, batches.collator(packing=layout == "packed", pad_id=PAD)(ITEMS))
    for name, value in together.items():
        expected = torch.stack([one[name] for one in alone]).sum(0)
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)


def test_padding_is_masked_and_does_not_count() -> None:
    batch = batches.padded(ITEMS, PAD)
    assert batch["input_ids"].tolist()[1] == [20, 21, 22, PAD, PAD, PAD, PAD]
    assert batch["attention_mask"].tolist()[1] == [1, 1, 1, 0, 0, 0, 0]
    assert batch["labels"].tolist()[1] == [IGNORED, 21, 22, IGNORED, IGNORED, IGNORED, IGNORED]


def test_groups_hold_at_most_so_many_tokens_or_one_row() -> None:
    assert [len(group) for group in batches.bounded(ROWS, 8)] == [2, 1]
    assert [len(group) for group in batches.bounded(ROWS, 2)] == [1, 1, 1]
