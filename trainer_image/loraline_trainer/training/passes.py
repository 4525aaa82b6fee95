"""Forward and backward passes under a memory plan, and what happens when the GPU runs out of memory in one.

A pass that ran out of memory is answered by a plan that takes less, and the passes of the optimizer step so far are
taken again from its first one: the gradients begin at nothing, and every pass begins with the random numbers it had.
So the step ends as if it had been planned like that from the start. Knows nothing of transformers or TRL.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from loraline_trainer.engine import memory_plan
from loraline_trainer.engine.footprint import Footprint, Measured, Split
from loraline_trainer.engine.memory_plan import Memory, MemoryPlan
from loraline_trainer.engine.policy import LayerPolicy

log = logging.getLogger(__name__)

MEASURED_LAYERS = 4
"""A pass tells what a layer keeps when at least that many keep: fewer drown in what the pass holds besides."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that come from the data together.

    Attributes:
        rows: `input_ids` and `labels` of each.
        counted: tokens that count.
    """

    rows: tuple[dict[str, list[int]], ...]
    counted: int

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row["input_ids"]) for row in self.rows)

    def pieces(self, rows: int) -> Iterator[tuple[dict[str, list[int]], ...]]:
        """The rows, at most so many at a time."""
        return (self.rows[start : start + rows] for start in range(0, len(self.rows), rows))


class Engine(Protocol):
    """What computes a pass."""

    def set_policies(self, policies: Sequence[LayerPolicy]) -> None:
        """Says what each layer keeps in the passes to come."""


class Gpu(Protocol):
    """The memory of the device."""

    def allocated(self) -> int:
        """Bytes in use."""

    def begin_peak(self) -> None:
        """Forgets the peak so far."""

    def peak(self) -> int:
        """Most bytes in use since then."""

    def budget(self, pending_bytes: int) -> Memory:
        """What passes may take beside that many bytes that are not in use yet."""

    def release(self) -> None:
        """Gives cached memory back."""


Rows = tuple[dict[str, list[int]], ...]
Loss = Callable[[Rows], torch.Tensor]
"""The summed loss of rows, with its graph."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A pass of the step so far, with the random numbers that it began with."""

    batch: MicroBatch
    random: Any


class Passes:
    """Takes the passes of optimizer steps."""

    def __init__(
        self,
        engine: Engine,
        plan: MemoryPlan,
        gpu: Gpu,
        *,
        loss: Loss,
        parameters: Iterable[torch.nn.Parameter],
        tell: Callable[[str], None],
    ) -> None:
        """Takes no pass yet.

        Args:
            tell: is told in a sentence what was planned, whenever that changes.
        """
        self._engine = engine
        self._gpu = gpu
        self._loss = loss
        self._parameters = list(parameters)
        self._tell = tell
        self._taken: list[_Taken] = []
        self._count = 0
        self._tokens = 0
        self._measured: Measured | None = None
        self._is_corrected = False
        self._has_given_way = False
        self.plan = plan
        tell(memory_plan.explanation(plan))

    def begin_step(self) -> None:
        """An optimizer step begins; the gradients are gone."""
        if self._measured is not None and not self._is_corrected:
            self._correct(self._measured)
        self._taken.clear()

    def take(self, batch: MicroBatch, items: int) -> torch.Tensor:
        """Adds the gradients of a micro-batch, and gives its share of the step's mean loss.

        Args:
            items: counted tokens of the whole step.

        Raises:
            torch.cuda.OutOfMemoryError: nothing is left that could be given up.
        """
        self._taken.append(_Taken(batch, _random_state()))
        waiting = self._taken[-1:]
        while True:
            try:
                for taken in waiting:
                    share = self._one(taken, items, is_again=waiting is self._taken)
            except torch.cuda.OutOfMemoryError:
                if not self._give_way():
                    raise
            else:
                return share
            self._begin_again()
            waiting = self._taken

    def gradients(self) -> list[torch.Tensor]:
        """The gradients of the step, zeros where no row gave any."""
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _one(self, taken: _Taken, items: int, *, is_again: bool) -> torch.Tensor:
        if is_again:
            _restore_random_state(taken.random)
        share = torch.zeros((), device=self._parameters[0].device)
        for rows in taken.batch.pieces(self.plan.rows):
            share = share + self._piece(rows, items)
        return share

    def _piece(self, rows: Rows, items: int) -> torch.Tensor:
        self._tokens = sum(len(row["input_ids"]) for row in rows)
        split = self.plan.split(self._tokens)
        self._engine.set_policies(split.policies())
        is_measured = self._measured is None and self._count > 0  # in the first pass libraries take their buffers
        if is_measured:
            self._gpu.begin_peak()
        before = self._gpu.allocated()
        loss = self._loss(rows) / max(items, 1)
        saved = self._gpu.allocated() - before
        loss.backward()
        if is_measured:
            peak = self._gpu.peak() - before
            self._measured = _measured(self._tokens, split, self.plan.footprint, saved=saved, peak=peak)
        self._count += 1
        return loss.detach()

    def _correct(self, measured: Measured) -> None:
        """Plans anew with what the first step measured: now gradients and optimizer have their memory."""
        self._is_corrected = True
        before = self.plan
        gradients = sum(parameter.numel() * parameter.element_size() for parameter in self._parameters)
        budget = self._gpu.budget(gradients)
        if self._has_given_way:
            budget = replace(budget, gpu_bytes=min(budget.gpu_bytes, before.memory.gpu_bytes))
        self.plan = memory_plan.with_measured(before, measured, budget)
        log.info(
            "memory plan: a layer that keeps takes %.1f KiB a token, reckoned %.1f; the rest of a pass of %d tokens "
            "takes %.2f GiB",
            self.plan.footprint.kept_bytes / 2**10,
            before.footprint.kept_bytes / 2**10,
            measured.tokens,
            measured.extra_bytes / 2**30,
        )
        self._tell(memory_plan.explanation(self.plan))

    def _give_way(self) -> bool:
        """Takes a plan that needs less; False when there is none."""
        less = memory_plan.retreat(self.plan, self._tokens)
        if less is None:
            return False
        self.plan, self._has_given_way = less, True
        text = memory_plan.explanation(less)
        log.warning("out of GPU memory in a pass of %d tokens; planned anew and taken again: %s", self._tokens, text)
        self._tell(f"{text} (after running out of memory)")
        return True

    def _begin_again(self) -> None:
        """The state before the step's first pass; what the failed one held is free by now."""
        for parameter in self._parameters:
            parameter.grad = None
        gc.collect()
        self._gpu.release()


def _measured(tokens: int, split: Split, reckoned: Footprint, *, saved: int, peak: int) -> Measured:
    """What a pass took: what its layers kept, as far as it can be told, and the rest."""
    inputs = tokens * reckoned.input_bytes * split.recomputed
    kept = reckoned.kept_bytes
    if split.kept >= MEASURED_LAYERS:
        kept = (saved - inputs) / (tokens * split.kept)
    extra = max(0, round(peak - inputs - tokens * kept * split.kept))
    return Measured(
        tokens=tokens,
        kept_bytes=kept if split.kept else None,
        input_bytes=None,
        extra_bytes=extra + reckoned.constant_bytes,  # buffers that were there before the pass
    )


def _random_state() -> Any:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return torch.get_rng_state(), cuda


def _restore_random_state(state: Any) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
