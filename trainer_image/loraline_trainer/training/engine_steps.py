"""TRL's loop around the engine's passes: its optimizers, schedules and callbacks stay, and no step waits for the GPU.

What a step is made of is known on the CPU: where documents lie, which tokens count, how many they are. Loss and
gradient norm are copied to the host beside the computation, and told when they are there.
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
from loraline_trainer.training.callbacks import Watch
from loraline_trainer.training.passes import MicroBatch, Passes, Rows

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
    gradient_norm: torch.Tensor | None = None
    step_loss: torch.Tensor | None = None
    tokens = 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[MicroBatch], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], int]:
        """The micro-batches of a step, and its counted tokens."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        return batches, sum(batch.counted for batch in batches)

    def training_step(self, model: Any, inputs: MicroBatch, num_items_in_batch: int | None = None) -> torch.Tensor:
        """Adds the gradients of a micro-batch."""
        share = self.passes.take(inputs, num_items_in_batch or inputs.counted)
        self.step_loss = share if self.step_loss is None else self.step_loss + share
        self.tokens += inputs.tokens
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

    def __init__(self, trainer: EngineSteps, watch: Watch) -> None:
        self._trainer = trainer
        self._watch = watch
        self._learning_rate = 0.0
        self._waiting: deque[_Numbers] = deque()

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
        self.tell(at_most=WAITING_STEPS)

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
