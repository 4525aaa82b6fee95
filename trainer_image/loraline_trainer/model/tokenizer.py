"""The base model's tokenizer: all that checking the data needs of a model, so PEFT and TRL are not imported for it."""

from __future__ import annotations

from typing import Any

import transformers

from loraline_api import run
from loraline_trainer import errors
from loraline_trainer.storage.base_model import BaseModel
from loraline_trainer.storage.s3 import first_line


def load(recipe: run.Run, base: BaseModel) -> Any:
    """The tokenizer, with the recipe's chat template when it has one.

    Raises:
        BaseModelInvalid: there is none, or it cannot tell where its tokens lie in a text.
    """
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(
            base.folder, trust_remote_code=recipe.base_model.trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise errors.BaseModelInvalid(
            f"{base.name} has no tokenizer that transformers {transformers.__version__} reads: {first_line(error)}; "
            f"add its tokenizer.json"
        ) from error
    if not loaded.is_fast:
        raise errors.BaseModelInvalid(
            f"the tokenizer of {base.name} has no tokenizer.json, and the loss mask needs its offsets; convert it "
            f"with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return loaded


def generation_eos(base: BaseModel) -> Any:
    """`eos_token_id` of the model's generation config: None, a number or a list."""
    try:
        return transformers.GenerationConfig.from_pretrained(base.folder).eos_token_id
    except OSError:
        return base.config.get("eos_token_id")
