"""The LoRA adapter: put on the base model, checked after training, and written in PEFT's format."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
import transformers

from loraline_api import run
from loraline_trainer import errors, numbers
from loraline_trainer.model.loading import Loaded

log = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"

WHERE_LOADED_FROM = ("is_local", "local_files_only", "name_or_path")
"""Keys of tokenizer_config.json that tell of this machine: the same run must give the same files anywhere."""


def attach(recipe: run.Run, loaded: Loaded) -> peft.PeftModel:
    """The model with a fresh adapter, whose weights are float32: bfloat16 would lose small updates of AdamW.

    Raises:
        InvalidSpec: adapter.targetModules names what the model does not have.
    """
    adapter = recipe.adapter
    transformers.set_seed(recipe.training.seed)
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.effective_alpha,
        lora_dropout=adapter.dropout,
        target_modules=_targets(loaded.model, adapter.target_modules),
        use_rslora=adapter.rank_stabilized,
        bias="none",
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(loaded.model, config, autocast_adapter_dtype=True)
    trainable = sum(parameter.numel() for parameter in trained_parameters(model).values())
    log.info(
        "adapter: %.2f M parameters train, %.2f %% of %.1f M",
        trainable / 1e6,
        100 * trainable / loaded.total_parameters,
        loaded.total_parameters / 1e6,
    )
    return model


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def copied(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the adapter's weights on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in trained_parameters(model).items()}


def restore(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Puts copied weights back, in the type in which they were copied."""
    for name, parameter in trained_parameters(model).items():
        parameter.data = weights[name].to(parameter.device, copy=True)


def save(model: peft.PeftModel, folder: Path) -> None:
    """Writes the adapter alone into the folder, as PEFT reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def load(model: peft.PeftModel, folder: Path) -> None:
    """Puts the weights of a saved adapter into the model's own."""
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    peft.set_peft_model_state_dict(model, weights)


def export(model: peft.PeftModel, tokenizer: Any, base_name: str, folder: Path) -> None:
    """Writes adapter, tokenizer and chat template into the folder; the same weights give the same bytes."""
    save(model, folder)
    _rewrite_config(folder / CONFIG, base_name)
    tokenizer.save_pretrained(str(folder))
    _forget_this_machine(folder / "tokenizer_config.json")
    log.info("adapter written: %s", numbers.size(sum(path.stat().st_size for path in folder.iterdir())))


def check_weights(folder: Path, learning_rate: float, steps: int) -> None:
    """Reads an exported adapter back.

    Raises:
        LossNotFinite: a weight is NaN or infinite.
        AdapterUnchanged: every B is still zero.
    """
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise errors.LossNotFinite(
                f"the adapter's weight {name} is not finite after {steps} steps; lower training.learningRate "
                f"({learning_rate:g})"
            )
    if not any(value.any() for name, value in weights.items() if "lora_B" in name):
        raise errors.AdapterUnchanged(
            f"the adapter's B matrices are all zero after {steps} steps, so it changes nothing; raise "
            f"training.learningRate ({learning_rate:g}) or train longer"
        )


def target_modules(folder: Path) -> list[str]:
    """Modules that an exported adapter changes."""
    return list(json.loads((folder / CONFIG).read_text())["target_modules"])


def _targets(model: Any, wanted: list[str]) -> str | list[str]:
    """PEFT's target_modules."""
    if wanted == [ALL_LINEAR]:
        return ALL_LINEAR
    head = model.get_output_embeddings()
    known: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            known.add(name.rpartition(".")[2])
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise errors.InvalidSpec(
            f"adapter.targetModules names {', '.join(unknown)}, but the linear layers of the base model are "
            f"{', '.join(sorted(known))}; name some of these, or all-linear alone"
        )
    return sorted(wanted)


def _rewrite_config(path: Path, base_name: str) -> None:
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])  # PEFT keeps a set, whose order differs between runs
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _forget_this_machine(path: Path) -> None:
    config = json.loads(path.read_text())
    kept = {key: value for key, value in config.items() if key not in WHERE_LOADED_FROM}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
