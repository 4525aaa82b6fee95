"""Decides whether the engine trains a model, says why when it does not, and plans its memory when it does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from loraline_api.finetune import MemoryProfile, Training
from loraline_trainer import errors, memory
from loraline_trainer.engine import build, footprint, fp8, memory_plan
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.memory_plan import MemoryPlan
from loraline_trainer.model import lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.progress import Tracker
from loraline_trainer.training import engine_steps, plan
from loraline_trainer.training.passes import Gpu, Passes

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

    def may_move_embeddings(self, training: Training) -> bool:
        """Whether the embeddings may leave the GPU: early stopping scores with the model itself."""
        return self.memory.profile is MemoryProfile.LEAN and training.early_stopping is None


def choose(model: Any, loaded: Loaded, *, wanted: bool | None = None, in_fp8: bool = False) -> EngineChoice:
    """The engine of a model with its adapter, or why there is none.

    Args:
        wanted: None wants it on a GPU; the reference of its kernels makes it right, but slow on CPUs.
        in_fp8: the recipe's frozen products are in FP8, which the engine alone can do.

    Raises:
        InvalidSpec: they are, and there is no engine, or the GPU has no matrix units for FP8.
    """
    if in_fp8 and loaded.device.type == "cuda" and not fp8.is_supported(loaded.device):
        name = torch.cuda.get_device_name(loaded.device)
        raise errors.InvalidSpec(
            f"quantization.computeDtype is float8, and {name} has no matrix units for FP8 (Ada, Hopper and later have "
            "them): set compute.gpuType to such a card, or computeDtype to bfloat16"
        )
    choice = _choose(model, loaded, wanted=wanted, in_fp8=in_fp8)
    if in_fp8 and choice.engine is None:
        raise errors.InvalidSpec(
            f"quantization.computeDtype is float8, which only the engine can do, and it is off: {choice.reason}; "
            "set computeDtype to bfloat16"
        )
    return choice


def _choose(model: Any, loaded: Loaded, *, wanted: bool | None, in_fp8: bool) -> EngineChoice:
    if wanted is False:
        return EngineChoice(None, "it was switched off")
    if wanted is None and loaded.device.type != "cuda":
        return EngineChoice(None, "there is no GPU")
    if loaded.dtype is torch.float16:
        return EngineChoice(None, "quantization.computeDtype is float16, whose gradients need scaling")
    found = build.engine_for(model, in_fp8=in_fp8)
    return EngineChoice(None, found) if isinstance(found, str) else EngineChoice(found)


def passes_of(drive: Drive, model: Any, loaded: Loaded, tracker: Tracker) -> Passes:
    """The passes of the engine, which say what they plan."""

    def tell(text: str) -> None:
        log.info("memory plan (%s): %s", drive.memory.profile.value, text)
        tracker.tell_memory_plan(text)

    return Passes(
        drive.engine,
        drive.memory,
        drive.gpu,
        loss=lambda rows: engine_steps.summed_loss(drive.engine, rows, loaded.device),
        parameters=lora.trained_parameters(model).values(),
        tell=tell,
    )


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
