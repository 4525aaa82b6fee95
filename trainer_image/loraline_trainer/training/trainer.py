"""The loop: TRL's SFTTrainer over rows that are tokens already, in our order, with an adapter in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from torch.utils.data import DataLoader
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from loraline_api.finetune import Training
from loraline_trainer.checkpoints.finding import Found
from loraline_trainer.data.preparation import Prepared
from loraline_trainer.model import lora
from loraline_trainer.model.loading import Loaded
from loraline_trainer.parallel.world import World
from loraline_trainer.training import batches, engine_steps, short_pass
from loraline_trainer.training.engine_choice import Drive
from loraline_trainer.training.engine_steps import EngineSteps
from loraline_trainer.training.order import MicroBatches, Order
from loraline_trainer.training.plan import Plan
from loraline_trainer.training.short_pass import ShortPass


def build(
    model: Any,
    loaded: Loaded,
    prepared: Prepared,
    training: Training,
    plan: Plan,
    *,
    work: Path,
    world: World,
    drive: Drive | None = None,
) -> Trainer:
    """The trainer of this process; one for the engine when that drives."""
    order = Order(len(prepared.train), plan.batch_size, plan.accumulation, world.size, training.seed)
    kind = Trainer if drive is None else EngineTrainer
    trainer = kind(
        model,
        arguments(training, plan, loaded, work),
        loaded,
        [batches.item(row) for row in prepared.train],
        MicroBatches(order, plan.total_steps, world.rank),
        packing=training.packing,
        short=short_pass.of(model, loaded) if world.size == 1 else None,
    )
    if isinstance(trainer, EngineTrainer):
        trainer.world = world
    if world.rank:
        transformers.set_seed(training.seed + world.rank)  # or all would drop the same places of different rows
    return trainer


class Trainer(SFTTrainer):
    """TRL's trainer with our data order and an adapter in float32."""

    def __init__(
        self,
        model: Any,
        config: SFTConfig,
        loaded: Loaded,
        rows: list[dict[str, list[int]]],
        micro_batches: MicroBatches,
        *,
        packing: bool,
        short: ShortPass | None = None,
    ) -> None:
        start = lora.copied(model)
        super().__init__(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(rows[:1]),  # TRL looks at its columns
            data_collator=batches.collator(packing=packing, pad_id=loaded.pad_id),
            processing_class=loaded.tokenizer,
        )
        self.remove_callback(transformers.PrinterCallback)
        # TRL makes adapters of quantized models bfloat16 (sft_trainer.py: _is_quantized_model)
        lora.restore(model, start)
        self._rows = rows
        self._micro_batches = micro_batches
        self._short = short

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The micro-batches of this process through all steps; see `order`."""
        return DataLoader(
            self._rows,  # type: ignore[arg-type]  # a list is all that a DataLoader asks for
            batch_sampler=self._micro_batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *given: Any, **named: Any) -> Any:
        """The pass's share of the mean loss of the step, by the short pass where there is one."""
        if self._short is None:
            return super().compute_loss(model, inputs, *given, **named)  # type: ignore[no-untyped-call]
        taken = self._short.take(inputs)
        self._total_train_tokens += taken.tokens
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        counted = named["num_items_in_batch"]
        return taken.loss / max(1, int(counted))

    def go_on(self, resumed: Found | None, called: Sequence[transformers.TrainerCallback | None]) -> int:
        """Trains from the beginning or from a checkpoint; gives the number of steps that are done then."""
        for callback in called:
            if callback is not None:
                self.add_callback(callback)
        if resumed is not None:
            self._total_train_tokens = resumed.state.tokens  # TRL begins to count anew in each process
        self.train(resume_from_checkpoint=str(resumed.folder) if resumed is not None else None)
        return int(self.state.global_step)


class EngineTrainer(EngineSteps, Trainer):  # type: ignore[misc]  # its batches are others than TRL's
    """The same with the engine's passes; `engine_steps.Reporter` tells the numbers of its steps."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.args.logging_strategy = transformers.trainer_utils.IntervalStrategy.NO
        collate: Any = engine_steps.collate
        self.data_collator = collate

    def go_on(self, resumed: Found | None, called: Sequence[transformers.TrainerCallback | None]) -> int:
        """Trains from the beginning or from a checkpoint; gives the number of steps that are done then."""
        self.tokens = resumed.state.tokens if resumed is not None else 0
        return super().go_on(resumed, called)


def arguments(training: Training, plan: Plan, loaded: Loaded, work: Path) -> SFTConfig:
    """The plan as TRL has it; packing is ours, see `batches`."""
    scheduler = "constant_with_warmup" if training.scheduler == "constant" else training.scheduler
    config = SFTConfig(
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
        bf16=loaded.dtype is torch.bfloat16,
        fp16=loaded.dtype is torch.float16,
        use_cpu=loaded.device.type == "cpu",
        activation_checkpointing=plan.checkpointing,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=loaded.device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if config.n_gpu > 1:
        config._n_gpu = 1  # a process trains on one GPU; transformers would spread it over all that it sees
    return config
