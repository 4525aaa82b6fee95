"""Resolves every hyperparameter of a run to a number, and remembers where the number came from.

Pure: the model and the machine are arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from loraline_api.finetune import Training
from loraline_trainer import errors

Source = Literal["spec", "default", "derived"]

CPU_BATCH_TOKENS = 2048
"""Tokens of a forward pass on CPUs: more does not make two to sixteen cores faster, only the memory larger."""

GPU_BATCH_TOKENS = 16384
"""Tokens of a forward pass on GPUs: a packed one has a mask of tokens x tokens bytes, 256 MiB here."""

ACTIVATION_BYTES = 51
"""Bytes of saved activations for each token, layer and hidden unit: 34 of a transformers decoder layer
(4.25 MiB a token for 32 layers of 4,096) and half as much again for PEFT's copies."""

ACTIVATION_SHARE = 0.6
"""Share of the free GPU memory that activations may take; logits, gradients and fragments take the rest."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the plan needs to know of model and machine.

    Attributes:
        free_bytes: free memory of the GPU; None on CPUs.
        layers, hidden: shape of the base model.
    """

    free_bytes: int | None
    layers: int
    hidden: int

    @property
    def has_gpu(self) -> bool:
        """Whether it trains on a GPU."""
        return self.free_bytes is not None


@dataclass(frozen=True, slots=True)
class Setting:
    """One resolved hyperparameter."""

    name: str
    value: object
    source: Source
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The numbers that training runs with.

    Attributes:
        batch_size: sequences of an optimizer step.
        micro_batch_size: sequences of a forward pass; a divisor of batch_size.
        optimizer: name as transformers' TrainingArguments.optim has it.
        checkpointing: whether activations are computed again in the backward pass.
        settings: all hyperparameters with their sources, for people.
    """

    batch_size: int
    micro_batch_size: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    optimizer: str
    checkpointing: bool
    settings: tuple[Setting, ...]

    @property
    def accumulation(self) -> int:
        """Forward passes of an optimizer step."""
        return self.batch_size // self.micro_batch_size


def resolve(
    training: Training, machine: Machine, *, examples: int, longest: int, micro_batch: int | None = None
) -> Plan:
    """The plan of a run.

    Args:
        examples: training examples.
        longest: tokens of the longest one.
        micro_batch: what the engine's memory plan chose; the engine computes activations again as it sees fit.

    Raises:
        InvalidSpec: microBatchSize does not fit batchSize.
    """
    if micro_batch is None:
        micro, checkpointing, note = _micro_batch(training, machine, longest)
    else:
        micro, checkpointing, note = micro_batch, False, "by the memory plan"
    steps_per_epoch = math.ceil(examples / training.batch_size)
    total = training.max_steps or math.ceil(training.epochs * steps_per_epoch)
    warmup = math.floor(training.warmup_ratio * total)  # a step of warm-up begins at a learning rate of 0
    optimizer, optimizer_note = _optimizer(training, machine)
    derived = (
        Setting("microBatchSize", micro, "spec" if training.micro_batch_size else "derived", note),
        Setting(
            "optimizer", optimizer, "derived" if optimizer_note else _source(training, "optimizer"), optimizer_note
        ),
        Setting("totalSteps", total, "derived", f"{examples} examples, {steps_per_epoch} steps an epoch"),
        Setting("warmupSteps", warmup, "derived", f"warmupRatio {training.warmup_ratio:g}"),
        Setting("activationCheckpointing", checkpointing, "derived"),
    )
    plain = tuple(_plain(training))
    return Plan(
        training.batch_size, micro, steps_per_epoch, total, warmup, optimizer, checkpointing, (*plain, *derived)
    )


def _plain(training: Training) -> Iterator[Setting]:
    """The hyperparameters that stay as they are."""
    for name, field in Training.model_fields.items():
        if name in ("micro_batch_size", "optimizer"):
            continue
        value: Any = getattr(training, name)
        if value is not None:
            yield Setting(field.alias or name, _shown(value), _source(training, name))


def _source(training: Training, name: str) -> Source:
    """`default` when the value is the default, as the snapshot of a run holds defaults filled in."""
    return "default" if getattr(training, name) == Training.model_fields[name].default else "spec"


def _shown(value: Any) -> object:
    return value.dump() if hasattr(value, "dump") else value


def _optimizer(training: Training, machine: Machine) -> tuple[str, str]:
    if not machine.has_gpu:
        note = "" if training.optimizer == "adamw" else f"{training.optimizer} needs a GPU"
        return "adamw_torch", note
    names = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}
    return names[training.optimizer], ""


def _micro_batch(training: Training, machine: Machine, longest: int) -> tuple[int, bool, str]:
    """Sequences of a forward pass, whether to checkpoint activations, and why."""
    per_sequence = longest * machine.layers * machine.hidden * ACTIVATION_BYTES
    budget = int(machine.free_bytes * ACTIVATION_SHARE) if machine.free_bytes is not None else 0
    if training.micro_batch_size is not None:
        check_micro_batch(training, training.batch_size)
        micro = training.micro_batch_size
        return micro, machine.has_gpu and micro * per_sequence > budget, ""
    if not machine.has_gpu:
        micro = _largest_divisor(training.batch_size, CPU_BATCH_TOKENS // longest)
        return micro, False, f"at most {CPU_BATCH_TOKENS} tokens in a forward pass, longest example {longest}"
    by_tokens = GPU_BATCH_TOKENS // longest
    micro = _largest_divisor(training.batch_size, min(by_tokens, budget // per_sequence))
    if micro * per_sequence <= budget:
        return micro, False, f"{budget / 2**30:.1f} GiB for activations, longest example {longest}"
    return (
        _largest_divisor(training.batch_size, by_tokens),
        True,
        f"activations of one sequence exceed {budget / 2**30:.1f} GiB",
    )


def check_micro_batch(training: Training, share: int) -> None:
    """Refuses a micro-batch that does not fit.

    Args:
        share: sequences of an optimizer step in each process.

    Raises:
        InvalidSpec: microBatchSize is no divisor of that share.
    """
    micro = training.micro_batch_size
    if micro is not None and share % micro:
        raise errors.InvalidSpec(
            f"training.microBatchSize is {micro} and training.batchSize is {training.batch_size}: batchSize must "
            f"be a multiple of microBatchSize; choose a divisor of {share}"
        )


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of the number that is at most the limit; 1 when there is none."""
    return next((candidate for candidate in range(min(number, limit), 1, -1) if number % candidate == 0), 1)
