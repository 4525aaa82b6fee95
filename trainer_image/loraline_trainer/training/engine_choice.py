"""Decides whether the engine trains a model, says why when it does not, and plans its memory when it does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loraline_api.finetune import MemoryProfile, Training
from loraline_trainer import memory
from loraline_trainer.engine import build, footprint, memory_plan
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.memory_plan import MemoryPlan
from loraline_trainer.model import lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.training import plan
from loraline_trainer.training.passes import Gpu

log = logging.getLogger(__name__)

GRADIENT_BYTES = 4
STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}
"""Bytes of a trained parameter: its float32 gradient, and both moments of the optimizer."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and the plan of its memory.

    Attributes:
        engine: None when the PEFT path trains.
        reason: why it does.
    """

    engine: Engine | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Drive:
    """What the engine trains with."""

    engine: Engine
    memory: MemoryPlan
    gpu: Gpu


def choose(model: Any, loaded: Loaded, *, wanted: bool | None = None) -> EngineChoice:
    """The engine of a model with its adapter, or why there is none.

    Args:
        wanted: None wants it on a GPU; the reference of its kernels makes it right, but slow on CPUs.
    """
    if wanted is False:
        return EngineChoice(None, "it was switched off")
    if wanted is None and loaded.device.type != "cuda":
        return EngineChoice(None, "there is no GPU")
    if loaded.dtype is torch.float16:
        return EngineChoice(None, "quantization.computeDtype is float16, whose gradients need scaling")
    found = build.engine_for(model)
    return EngineChoice(None, found) if isinstance(found, str) else EngineChoice(found)


def drive(
    engine: Engine, model: Any, training: Training, lengths: Sequence[int], *, profile: MemoryProfile, batch_size: int
) -> Drive:
    """Plans the engine's memory before the first step.

    Args:
        lengths: tokens of each training row.
        batch_size: rows of an optimizer step in this process.
    """
    plan.check_micro_batch(training, batch_size)
    if profile is MemoryProfile.LEAN:
        engine.set_loss_bytes(memory_plan.LEAN_LOSS_BYTES)
    gpu = memory.Gpu()
    trained = sum(parameter.numel() for parameter in lora.trained_parameters(model).values())
    available = gpu.budget(trained * (GRADIENT_BYTES + STATE_BYTES[training.optimizer]))
    reckoned = footprint.of_shape(engine.shape, engine.layers, loss_bytes=engine.loss_bytes())
    chosen = memory_plan.plan(
        profile,
        memory_plan.workload(lengths, packed=True),  # the engine fills nothing up
        available,
        reckoned,
        batch_size=batch_size,
        micro_batch_size=training.micro_batch_size,
    )
    for line in memory_plan.alternatives(chosen):
        log.info("memory plan: instead %s", line)
    return Drive(engine, chosen, gpu)
