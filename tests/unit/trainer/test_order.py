"""The data order: every row once in an epoch, the same rows in a step for any number of processes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from loraline_trainer.training.order import MicroBatches, Order

SHAPES = [
    pytest.param(36, 8, 1, 1, id="one process, one micro-batch, a short last step"),
    pytest.param(36, 8, 2, 1, id="one process, two micro-batches"),
    pytest.param(36, 8, 2, 2, id="two processes"),
    pytest.param(33, 8, 2, 4, id="fewer rows in the last step than micro-batches"),
    pytest.param(3, 8, 1, 2, id="fewer rows than a batch"),
]


def rows_of(order: Order, step: int) -> list[int]:
    """The rows that all processes together have in a step."""
    return [row for rank in range(order.world_size) for batch in order.micro_batches(step, rank) for row in batch]


@pytest.mark.parametrize(("examples", "batch_size", "accumulation", "world_size"), SHAPES)
def test_an_epoch_has_every_row_once(examples: int, batch_size: int, accumulation: int, world_size: int) -> None:
    order = Order(examples, batch_size, accumulation, world_size, seed=5)
    for epoch in range(2):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        assert Counter(row for step in steps for row in rows_of(order, step)) == Counter(range(examples))


@pytest.mark.parametrize(("examples", "batch_size", "accumulation", "world_size"), SHAPES)
def test_a_step_has_the_same_rows_for_any_number_of_processes(
    examples: int, batch_size: int, accumulation: int, world_size: int
) -> None:
    alone = Order(examples, batch_size, 1, 1, seed=5)
    together = Order(examples, batch_size, accumulation, world_size, seed=5)
    for step in range(2 * alone.steps_per_epoch):
        assert sorted(rows_of(together, step)) == sorted(rows_of(alone, step))


def test_each_epoch_has_an_order_of_its_own_and_a_seed_gives_always_the_same() -> None:
    """Reference: torch's permutation with the seed plus the epoch, as accelerate's SeedableRandomSampler draws it."""
    order = Order(10, 10, 1, 1, seed=42)
    for epoch in range(3):
        expected = torch.randperm(10, generator=torch.Generator().manual_seed(42 + epoch)).tolist()
        assert order.rows(epoch) == expected


def test_the_sampler_gives_every_step_the_same_number_of_micro_batches() -> None:
    order = Order(33, 8, 2, 4, seed=5)
    for rank in range(4):
        sampler = MicroBatches(order, 7, rank)
        assert len(list(sampler)) == len(sampler) == 14
