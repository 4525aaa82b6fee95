"""TRL's loop around the engine's passes: its optimizers, schedules and callbacks stay, and no step waits for the GPU.

What a step is made of is known on the CPU: where documents lie, which tokens count, how many they are. Loss and
gradient norm are copied to the host beside the computation, and told when they are there. Where several processes
train, each adds up the gradients of its rows, and they are summed once a step, behind the last pass.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from loraline_trainer.data.rendering import IGNORED
from loraline_trainer.engine import batches as engine_batches
from loraline_trainer.engine import engine as engines
from loraline_trainer.engine import layout
from loraline_trainer.parallel.world import ALONE, World
from loraline_trainer.training.callbacks import Watch
from loraline_trainer.training.passes import MicroBatch, Passes, Rows
from loraline_trainer.training.saving import Saver

WAITING_STEPS = 2
"""Steps whose numbers may be on their way: a third one waits for the first."""


def collate(items: Sequence[dict[str, list[int]]]) -> MicroBatch:
    """The rows as they are: the engine lays them end to end, so nothing is filled up."""
    counted = sum(label != IGNORED for one in items for label in one["labels"])
    return MicroBatch(tuple({key: one[key] for key in ("input_ids", "labels")} for one in items), counted)


def summed_loss(engine: engines.Engine, rows: Rows, device: torch.device) -> torch.Tensor:
    """The summed loss of rows over their counted tokens, with its graph."""
    ids = [token for row in rows for token in row["input_ids"]]
    predict_at, targets = engine_batches.counted([label for row in rows for label in row["labels"]])
    on_device = [_copied(values, device) for values in (ids, predict_at, targets)]
    where = layout.of_lengths([len(row["input_ids"]) for row in rows], device)
    return engine.loss(on_device[0], where, on_device[1], on_device[2])


def _copied(values: list[int], device: torch.device) -> torch.Tensor:
    tensor = torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class EngineSteps:
    """What takes the place of methods of transformers' Trainer; to be named before it among the base classes."""

    passes: Passes
    world: World = ALONE
    gradient_norm: torch.Tensor | None = None
    step_loss: torch.Tensor | None = None
    tokens = 0
    _step_tokens = 0
    _passes_left = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[MicroBatch], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], int]:
        """The micro-batches of a step in this process, and the counted tokens of all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        mine = [sum(batch.counted for batch in batches), sum(batch.tokens for batch in batches)]
        counted, self._step_tokens = self.world.summed(mine)
        self._passes_left = len(batches)
        return batches, counted

    def training_step(self, model: Any, inputs: MicroBatch, num_items_in_batch: int | None = None) -> torch.Tensor:
        """Adds the gradients of a micro-batch, and behind the last one those of the other processes."""
        share = self.passes.take(inputs, num_items_in_batch or inputs.counted)
        self.step_loss = share if self.step_loss is None else self.step_loss + share
        self._passes_left -= 1
        if self._passes_left == 0:
            self.world.sum_tensors([*self.passes.gradients(), self.step_loss])
            self.tokens += self._step_tokens
        return share

    def floating_point_ops(self, inputs: MicroBatch) -> int:
        """Not counted: it would walk over all parameters in every pass."""
        return 0

    def _clip_grad_norm(self, model: Any) -> torch.Tensor | None:
        norm: torch.Tensor | None = super()._clip_grad_norm(model)  # type: ignore[misc]
        self.gradient_norm = norm
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: torch.Tensor | None = None) -> torch.Tensor | None:
        return grad_norm  # transformers' own asks the GPU for the number


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The numbers of a step, on their way to the host."""

    step: int
    epoch: float
    learning_rate: float
    tokens: int
    values: torch.Tensor
    arrived: torch.cuda.Event | None


class OnHost(transformers.TrainerCallback):
    """Keeps the embeddings in host memory while training goes on: only the engine runs then."""

    def __init__(self, engine: engines.Engine) -> None:
        self._engine = engine
        self._held = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes them there."""
        self._held.enter_context(self._engine.embeddings_on_host())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Brings them back."""
        self._held.close()


class Reporter(transformers.TrainerCallback):
    """Begins and ends the steps, and passes their numbers on to the watch once they are on the host."""

    def __init__(self, trainer: EngineSteps, watch: Watch, saver: Saver | None = None) -> None:
        """Tells nothing yet.

        Args:
            saver: saves steps whose numbers are known; it is asked at each step whether it is time.
        """
        self._trainer = trainer
        self._watch = watch
        self._saver = saver
        self._learning_rate = 0.0
        self._waiting: deque[_Numbers] = deque()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training begins."""
        if self._saver is not None:
            self._saver.on_train_begin(args, state, control)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A pass ended that is not the last of its step."""
        if self._saver is not None:
            if self._saver.is_due(state, control):
                self.tell(at_most=0)
            self._saver.on_substep_end(args, state, control)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins a step."""
        self._trainer.passes.begin_step()
        self._trainer.step_loss = None

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remembers the learning rate of the step, before the schedule moves it."""
        self._learning_rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sends the numbers of a step to the host, and tells those that have arrived."""
        trainer = self._trainer
        loss = trainer.step_loss if trainer.step_loss is not None else torch.zeros(())
        norm = trainer.gradient_norm if trainer.gradient_norm is not None else torch.zeros_like(loss)
        both = torch.stack([loss.float(), norm.to(loss.device).float()])
        arrived = None
        if both.is_cuda:
            on_host = torch.empty(2, pin_memory=True)
            on_host.copy_(both, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            both = on_host
        self._waiting.append(
            _Numbers(state.global_step, float(state.epoch or 0), self._learning_rate, trainer.tokens, both, arrived)
        )
        is_due = self._saver is not None and self._saver.is_due(state, control)
        self.tell(at_most=0 if is_due else WAITING_STEPS)
        if self._saver is not None and is_due:
            self._saver.end_step(state, control)
        elif self._saver is not None:
            self._saver.pass_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tells what is left."""
        self.tell(at_most=0)

    def tell(self, at_most: int) -> None:
        """Tells the numbers that have arrived; waits until at most that many are on their way."""
        while self._waiting:
            first = self._waiting[0]
            if first.arrived is not None and not first.arrived.query():
                if len(self._waiting) <= at_most:
                    return
                first.arrived.synchronize()
            self._waiting.popleft()
            loss, norm = first.values.tolist()
            state = transformers.TrainerState(global_step=first.step, epoch=first.epoch)
            logs = {"loss": loss, "grad_norm": norm, "learning_rate": first.learning_rate, "num_tokens": first.tokens}
            self._watch.on_log(None, state, None, logs=logs)
