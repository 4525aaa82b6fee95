"""Passes under a memory plan, with a GPU of numbers: no model, but real gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from loraline_api.finetune import MemoryProfile
from loraline_trainer.engine import memory_plan
from loraline_trainer.engine.footprint import Footprint
from loraline_trainer.engine.memory_plan import Memory, MemoryPlan
from loraline_trainer.engine.policy import LayerPolicy
from loraline_trainer.training.passes import MicroBatch, Passes, Rows

LAYERS = 8
RECKONED = Footprint(layers=LAYERS, kept_bytes=100, input_bytes=10, working_bytes=50)


@dataclass
class Machine:
    """An engine and a GPU: a pass takes what the footprint says, times a factor, and fails when that is too much."""

    holds: int
    factor: float = 1.0
    policies: tuple[LayerPolicy, ...] = ()
    peak_bytes: int = 0
    saved_bytes: int = 0
    passes: list[tuple[int, int]] = field(default_factory=list)
    drawn: list[float] = field(default_factory=list)

    def set_policies(self, policies: Sequence[LayerPolicy]) -> None:
        self.policies = tuple(policies)

    def allocated(self) -> int:
        now, self.saved_bytes = self.saved_bytes, 0
        return now

    def begin_peak(self) -> None:
        self.peak_bytes = 0

    def peak(self) -> int:
        return self.peak_bytes

    def budget(self, pending_bytes: int) -> Memory:
        return Memory(self.holds - pending_bytes)

    def release(self) -> None:
        pass

    def loss(self, weight: torch.Tensor) -> Callable[[Rows], torch.Tensor]:
        """The loss of rows: weight times their tokens, times a random number, as dropout would have it."""

        def of_rows(rows: Rows) -> torch.Tensor:
            tokens = [token for row in rows for token in row["input_ids"]]
            kept = self.policies.count(LayerPolicy.KEEP)
            self.saved_bytes = round(self.factor * len(tokens) * (100 * kept + 10 * (LAYERS - kept)))
            self.peak_bytes = self.saved_bytes + len(tokens) * 50
            self.passes.append((len(rows), kept))
            self.drawn.append(float(torch.rand(())))
            loss = weight * sum(tokens) * self.drawn[-1]
            if self.peak_bytes > self.holds:
                loss.backward(retain_graph=True)  # half of the gradients are there when memory runs out
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return loss

        return of_rows


def a_batch(*lengths: int) -> MicroBatch:
    rows = tuple({"input_ids": [1] * length, "labels": [1] * length} for length in lengths)
    return MicroBatch(rows, sum(lengths))


def a_plan(machine: Machine, micro: int = 2, *, is_given: bool = False) -> MemoryPlan:
    return memory_plan.plan(
        MemoryProfile.AUTO,
        memory_plan.workload([100] * 8, packed=True),
        Memory(machine.holds),
        RECKONED,
        batch_size=micro,
        micro_batch_size=micro if is_given else None,
    )


def passes_of(machine: Machine, plan: MemoryPlan) -> tuple[Passes, torch.nn.Parameter, list[str]]:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    told: list[str] = []
    made = Passes(machine, plan, machine, loss=machine.loss(weight), parameters=[weight], tell=told.append)
    return made, weight, told


def test_a_step_that_ran_out_of_memory_ends_with_the_gradient_of_one_that_did_not() -> None:
    results = []
    for holds in (10**9, 120_000):
        torch.manual_seed(7)
        machine = Machine(holds, factor=1.0 if holds == 10**9 else 2.0)
        passes, weight, told = passes_of(machine, a_plan(machine, is_given=True))
        passes.begin_step()
        losses = [float(passes.take(a_batch(*lengths), 400)) for lengths in ((100, 20), (100, 100))]
        assert weight.grad is not None
        results.append((losses, float(weight.grad), machine.drawn[-1]))
        assert (len(told) > 1) is (holds == 120_000)
    assert results[0] == results[1]


def test_the_plan_gives_way_until_a_pass_fits_and_stays_there() -> None:
    machine = Machine(120_000, factor=2.0)
    passes, _, told = passes_of(machine, a_plan(machine, is_given=True))
    passes.begin_step()
    passes.take(a_batch(100, 100), 200)
    failed = len(machine.passes) - 1
    passes.begin_step()
    passes.take(a_batch(100, 100), 200)
    assert failed > 0
    assert len(machine.passes) == failed + 2
    assert told[0].startswith("5 of 8 layers keep their activations")
    assert "(after running out of memory)" in told[failed]


def test_a_smaller_micro_batch_takes_more_passes_of_fewer_rows() -> None:
    machine = Machine(40_000, factor=1.0)
    plan = replace(a_plan(machine), micro_batch=2, rows=2)
    machine.holds = 24_000
    passes, weight, _ = passes_of(machine, plan)
    passes.begin_step()
    passes.take(a_batch(100, 100), 200)
    assert machine.passes[-2:] == [(1, 1), (1, 1)]
    assert weight.grad is not None


def test_the_error_goes_on_when_nothing_is_left_to_give() -> None:
    machine = Machine(10)
    passes, _, _ = passes_of(machine, a_plan(machine, is_given=True))
    passes.begin_step()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        passes.take(a_batch(100, 100), 200)


def test_the_second_pass_measures_and_the_next_step_is_planned_with_it() -> None:
    machine = Machine(1_000_000, factor=1.5)
    passes, _, told = passes_of(machine, a_plan(machine, is_given=True))
    for _ in range(2):
        passes.begin_step()
        passes.take(a_batch(100, 100), 200)
    assert len(told) == 1
    passes.begin_step()
    assert len(told) == 2
    assert passes.plan.footprint.kept_bytes == pytest.approx(150)
    assert passes.plan.footprint.working_bytes == pytest.approx(50)
    assert passes.plan.memory.gpu_bytes == 1_000_000 - 4  # the gradient of one float32


def test_an_empty_micro_batch_adds_nothing() -> None:
    machine = Machine(10**9)
    passes, weight, _ = passes_of(machine, a_plan(machine, is_given=True))
    passes.begin_step()
    assert float(passes.take(MicroBatch((), 0), 10)) == 0
    assert weight.grad is None
