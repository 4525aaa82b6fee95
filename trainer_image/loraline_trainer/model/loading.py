"""Loads tokenizer and base model, quantized to NF4 where the recipe says so, frozen, on a GPU when there is one."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from loraline_api import run
from loraline_trainer import errors
from loraline_trainer.model import nf4
from loraline_trainer.storage.base_model import BaseModel
from loraline_trainer.storage.s3 import first_line

log = logging.getLogger(__name__)

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float8": torch.bfloat16,  # of all that is no frozen weight; see `engine.fp8`
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A base model that is ready for an adapter.

    Attributes:
        dtype: type of the matrix products.
        total_parameters: parameters of the base model; 4-bit ones are counted one by one.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    total_parameters: int

    @property
    def pad_id(self) -> int:
        """The id that fills rows up; it is always masked out."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)

    def computing(self) -> AbstractContextManager[Any]:
        """Runs products in `dtype`, as training does."""
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def device() -> torch.device:
    """The GPU, or else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def compute_dtype(recipe: run.Run, where: torch.device) -> torch.dtype:
    """The type of the matrix products; float16 needs a GPU and becomes float32 on CPUs."""
    wanted = DTYPES[recipe.quantization.compute_dtype]
    return torch.float32 if where.type == "cpu" and wanted is torch.float16 else wanted


def load(recipe: run.Run, base: BaseModel, tokens: Any) -> Loaded:
    """The base model in memory, frozen and in eval mode.

    Raises:
        BaseModelInvalid: transformers cannot load it.
    """
    where = device()
    dtype = compute_dtype(recipe, where)
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=dtype,
            device_map={"": str(where)},
            quantization_config=_quantization(recipe, dtype),
            trust_remote_code=recipe.base_model.trust_remote_code,
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise errors.BaseModelInvalid(
            f"{base.name} cannot be loaded as a causal language model: {first_line(error)}; check its files"
        ) from error
    model.requires_grad_(False)
    model.eval()
    model.config.use_cache = False  # a cache lets packed sequences see each other
    if where.type == "cpu":
        count = nf4.keep_unpacked(model)
        log.info("%d 4-bit layers on CPUs", count)
    total = _parameters(model)
    log.info("base model %s: %.1f M parameters, %s on %s", base.name, total / 1e6, recipe.quantization.type, where)
    return Loaded(model, tokens, where, dtype, total)


def _quantization(recipe: run.Run, dtype: torch.dtype) -> transformers.BitsAndBytesConfig | None:
    if recipe.quantization.type == "none":
        return None
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recipe.quantization.type,
        bnb_4bit_use_double_quant=recipe.quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def _parameters(model: Any) -> int:
    """Parameters of a model; a 4-bit weight holds two of them in each byte."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total
