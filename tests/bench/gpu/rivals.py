"""Trains a row with TRL, with Liger's kernels in TRL, or with Unsloth, as their documentation has it.

Rivals are run, never copied from. Unsloth has to be imported before transformers, so imports are late here.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from bench.gpu.rows import Data, Row, Side

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

OFFLINE = {"HF_HUB_OFFLINE": "1", "UNSLOTH_DISABLE_STATISTICS": "1", "WANDB_DISABLED": "true"}


def run(row: Row, model_folder: Path) -> dict[str, Any]:
    """Trains the row and gives what was measured."""
    os.environ.update(OFFLINE)
    loaded = _unsloth(row, model_folder) if row.side is Side.UNSLOTH else _peft(row, model_folder)
    from bench.gpu.clock import Clock

    clock = Clock(row.warmup)
    with tempfile.TemporaryDirectory() as work:
        trainer = _trainer(row, loaded, clock, work)
        trainer.train()
    clock.losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return clock.result()


def _unsloth(row: Row, folder: Path) -> tuple[Any, Any, Any]:
    import unsloth
    from torch import bfloat16

    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=row.seq, load_in_4bit=True, dtype=bfloat16, local_files_only=True
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=row.rank,
        lora_alpha=2 * row.rank,
        lora_dropout=0,
        target_modules=TARGETS,
        bias="none",
        random_state=row.seed,
        use_gradient_checkpointing=False if row.policy == "off" else "unsloth",
        **({"checkpoint_skip_layers": "auto"} if row.policy == "auto" else {}),
    )
    return model, tokenizer, None


def _peft(row: Row, folder: Path) -> tuple[Any, Any, Any]:
    import torch
    import transformers
    from peft import LoraConfig, prepare_model_for_kbit_training

    torch.manual_seed(row.seed)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": 0}, attn_implementation="sdpa"
    )
    prepare: Any = prepare_model_for_kbit_training
    model = prepare(
        model,
        use_gradient_checkpointing=row.policy == "on",
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    adapter = LoraConfig(
        r=row.rank,
        lora_alpha=2 * row.rank,
        lora_dropout=0.0,
        target_modules=TARGETS,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return model, transformers.AutoTokenizer.from_pretrained(folder), adapter


def _dataset(row: Row, vocabulary: int) -> Any:
    from datasets import Dataset

    from bench.gpu import tokens

    steps = row.warmup + row.steps
    if row.data is Data.SHORT:
        return Dataset.from_dict({"text": tokens.texts(tokens.short_documents_needed(row, steps), row.seq)})
    ids = tokens.ids(row, steps * row.batch, vocabulary)
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "attention_mask": [[1] * len(one) for one in ids]})


def _arguments(row: Row, micro: int, work: str) -> dict[str, Any]:
    """TRL's settings for the row."""
    values: dict[str, Any] = {
        "output_dir": work,
        "max_steps": row.warmup + row.steps,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": row.batch // micro,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "linear",
        "warmup_steps": 1,
        "logging_steps": 1,
        "max_length": row.seq,
        "report_to": "none",
        "optim": row.optimizer,
        "bf16": True,
        "packing": row.data is Data.SHORT,
        "save_strategy": "no",
        "seed": row.seed,
        "dataset_num_proc": 1,
        "disable_tqdm": True,
    }
    if row.data is Data.SHORT:
        values["dataset_text_field"] = "text"
    if row.side is Side.UNSLOTH:
        return values | ({} if row.data is Data.SHORT else {"dataset_kwargs": {"skip_prepare_dataset": True}})
    checkpointing = {
        "gradient_checkpointing": row.policy == "on",
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    return values | checkpointing | ({"use_liger_kernel": True} if row.side is Side.LIGER else {})


def _trainer(row: Row, loaded: tuple[Any, Any, Any], clock: Any, work: str) -> Any:
    from torch.utils.data import SequentialSampler
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    model, tokenizer, adapter = loaded
    micro = row.micro or row.batch
    trainer: Any = SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(row, micro, work)),
        train_dataset=_dataset(row, model.config.vocab_size),
        processing_class=tokenizer,
        callbacks=[_callback(clock)],
        **({"peft_config": adapter} if adapter is not None else {}),
    )
    _count_tokens(trainer, clock, row.batch // micro)
    trainer._get_train_sampler = lambda *given, **named: SequentialSampler(trainer.train_dataset)
    return trainer


def _callback(clock: Any) -> Any:
    import transformers

    class Marks(transformers.TrainerCallback):
        """Passes the ends of steps on to the clock."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            clock.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            clock.end_step()

    return Marks()


def _count_tokens(trainer: Any, clock: Any, passes: int) -> None:
    """Counts useful tokens on the GPU, where the count waits for nobody."""
    inner = trainer.training_step
    seen = 0

    def counted(model: Any, inputs: Any, *given: Any, **named: Any) -> Any:
        nonlocal seen
        clock.count(_useful(inputs), opens_step=seen % passes == 0)
        seen += 1
        return inner(model, inputs, *given, **named)

    trainer.training_step = counted


def _useful(inputs: Any) -> Any:
    """Tokens that are no padding."""
    if "labels" in inputs:
        return (inputs["labels"] != -100).sum()
    mask = inputs.get("attention_mask")
    return mask.sum() if mask is not None and mask.dim() == 2 else inputs["input_ids"].numel()
