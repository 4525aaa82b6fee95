"""Which rows are in which micro-batch: the data order of a run, the same for any number of processes.

Pure. An optimizer step takes the next batchSize rows of its epoch's permutation, and the last step of an epoch what is
left; the rows of a step are spread over the micro-batches of all processes. So a step has the same rows however many
processes share it, and the place in the data follows from the number of the step alone. accelerate's samplers would
fill the last step up with rows of the epoch's beginning when there are several processes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler


@dataclass(frozen=True)
class Order:
    """The data order of a run.

    Attributes:
        examples: training rows.
        accumulation: micro-batches of a process in an optimizer step.
    """

    examples: int
    batch_size: int
    accumulation: int
    world_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a pass over the rows."""
        return math.ceil(self.examples / self.batch_size)

    def rows(self, step: int) -> list[int]:
        """The rows of an optimizer step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return self._permutation(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def micro_batches(self, step: int, rank: int) -> list[list[int]]:
        """The rows of each micro-batch of a process; some are empty when a step has fewer rows than micro-batches."""
        rows = self.rows(step)
        slots = self.accumulation * self.world_size
        each, more = divmod(len(rows), slots)
        begins = [slot * each + min(slot, more) for slot in range(slots + 1)]
        mine = range(rank, slots, self.world_size)
        return [rows[begins[slot] : begins[slot + 1]] for slot in mine]

    @functools.lru_cache(maxsize=1)  # noqa: B019  # one order lives as long as its run
    def _permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + epoch)
        shuffled: list[int] = torch.randperm(self.examples, generator=generator).tolist()
        return shuffled


class MicroBatches(Sampler[list[int]]):
    """The micro-batches of a process through all steps of a run, for a DataLoader."""

    def __init__(self, order: Order, total_steps: int, rank: int) -> None:
        self._order = order
        self._total_steps = total_steps
        self._rank = rank
        self.batch_size = order.batch_size // (order.accumulation * order.world_size)
        self.drop_last = False

    def __len__(self) -> int:
        return self._total_steps * self._order.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._total_steps):
            yield from self._order.micro_batches(step, self._rank)
