"""Trains the adapter: TRL's SFTTrainer over rows that are tokens already.

The loss is the mean over all counted tokens of an optimizer step, however they are laid out in micro-batches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
import torch
import transformers
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from loraline_api.finetune import MemoryProfile, Training
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.model import lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.progress import Tracker
from loraline_trainer.training import batches, callbacks, engine_steps
from loraline_trainer.training.engine_choice import Drive
from loraline_trainer.training.engine_steps import EngineSteps, OnHost, Reporter
from loraline_trainer.training.passes import Passes
from loraline_trainer.training.plan import Plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training did.

    Attributes:
        tokens: tokens trained on, padding not counted.
    """

    steps: int
    loss: float
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> int:
        """Mean speed."""
        return round(self.tokens / max(self.seconds, 1e-9))


def train(
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    training: Training,
    plan: Plan,
    *,
    tracker: Tracker,
    work: Path,
    score_held_out: Callable[[], float],
    drive: Drive | None = None,
    observers: Sequence[transformers.TrainerCallback] = (),
) -> Trained:
    """Trains the adapter in place.

    Args:
        score_held_out: gives the held-out loss of the model as it is, for early stopping.
        drive: the engine and its plan; without it PEFT's path trains.
        observers: are called at every step, as the progress is.

    Raises:
        LossNotFinite: the loss or a gradient is NaN or infinite.
    """
    watch = callbacks.Watch(tracker, plan.total_steps, training.learning_rate)
    stopper = None
    if training.early_stopping is not None and prepared.held_out:
        stopper = callbacks.Stopper(model, training.early_stopping, score_held_out)
    config = arguments(training, plan, loaded, work)
    if drive is None:
        trainer: SFTTrainer = _trainer(SFTTrainer, model, config, loaded, prepared, packing=training.packing)
        trainer.add_callback(watch)
    else:
        trainer = _trainer(EngineTrainer, model, config, loaded, prepared, packing=True)
        _drive(trainer, drive, model, loaded, tracker)
        trainer.add_callback(Reporter(trainer, watch))
        if drive.memory.profile is MemoryProfile.LEAN and stopper is None:  # a stopper scores with the model itself
            trainer.add_callback(OnHost(drive.engine))
    for callback in (stopper, *observers):
        if callback is not None:
            trainer.add_callback(callback)
    tracker.begin_training(plan.total_steps)
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    if stopper is not None:
        stopper.restore_best()
    tracker.end_training()
    model.eval()
    return Trained(trainer.state.global_step, watch.last_loss or 0.0, watch.tokens, seconds)


class EngineTrainer(EngineSteps, SFTTrainer):  # type: ignore[misc]  # it takes other batches than TRL's trainer
    """TRL's trainer with the engine's passes."""


T = TypeVar("T", bound=SFTTrainer)


def _trainer(kind: type[T], model: Any, config: SFTConfig, loaded: Loaded, prepared: Prepared, *, packing: bool) -> T:
    """TRL's trainer over the prepared rows; the adapter keeps its float32 weights."""
    start = lora.copied(model)
    trainer = kind(
        model=model,
        args=config,
        train_dataset=datasets.Dataset.from_list([batches.item(row) for row in prepared.train]),
        data_collator=batches.collator(packing=packing, pad_id=loaded.pad_id),
        processing_class=loaded.tokenizer,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    lora.restore(model, start)  # TRL makes adapters of quantized models bfloat16 (sft_trainer.py: _is_quantized_model)
    return trainer


def _drive(trainer: EngineTrainer, drive: Drive, model: Any, loaded: Loaded, tracker: Tracker) -> None:
    """Gives a trainer its engine; `engine_steps.Reporter` tells the numbers of its steps."""
    trainer.args.logging_strategy = transformers.trainer_utils.IntervalStrategy.NO
    collate: Any = engine_steps.collate
    trainer.data_collator = collate

    def tell(text: str) -> None:
        log.info("memory plan (%s): %s", drive.memory.profile.value, text)
        tracker.tell_memory_plan(text)

    trainer.passes = Passes(
        drive.engine,
        drive.memory,
        drive.gpu,
        loss=lambda rows: engine_steps.summed_loss(drive.engine, rows, loaded.device),
        parameters=lora.trained_parameters(model).values(),
        tell=tell,
    )


def arguments(training: Training, plan: Plan, loaded: Loaded, work: Path) -> SFTConfig:
    """The plan as TRL has it; packing is ours, see `batches`."""
    scheduler = "constant_with_warmup" if training.scheduler == "constant" else training.scheduler
    return SFTConfig(
        output_dir=str(work / "trainer"),
        max_steps=plan.total_steps,
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=scheduler,
        warmup_steps=plan.warmup_steps,
        optim=plan.optimizer,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        neftune_noise_alpha=training.neftune_noise_alpha,
        seed=training.seed,
        data_seed=training.seed,
        bf16=loaded.dtype is torch.bfloat16,
        fp16=loaded.dtype is torch.float16,
        use_cpu=loaded.device.type == "cpu",
        activation_checkpointing=plan.checkpointing,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_pin_memory=loaded.device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
