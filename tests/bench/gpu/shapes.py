"""Shapes of the models that are timed, and a folder with random weights of such a shape.

Weights are random because no hub is in reach and speed does not depend on them; the curve's model is small and learns.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 524288,
}

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": LLAMA
    | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "tie_word_embeddings": False},
    "llama-1b": LLAMA
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "head_dim": 64,
        "tie_word_embeddings": True,
    },
    "mistral-7b": {
        "model_type": "mistral",
        "vocab_size": 32768,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "qwen2.5-7b": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    },
    "qwen2.5-14b": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    },
    "gemma2-9b": {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    },
    "curve": LLAMA
    | {
        "vocab_size": 4096,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "tiny": LLAMA
    | {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
}


def tokenizer() -> Any:
    """A byte-level tokenizer: one byte is one token, so that a document's length is known."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bytes_only = Tokenizer(models.BPE())
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|pad|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bytes_only.train_from_iterator(
        [], trainers.BpeTrainer(vocab_size=259, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, bos_token=special[0], eos_token=special[1], pad_token=special[2]
    )
    fast.chat_template = (
        "{% for m in messages %}<|begin_of_text|>{{m['role']}}: {{m['content']}}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|begin_of_text|>assistant: {% endif %}"
    )
    return fast


def config(name: str, layers: int | None) -> Any:
    """The transformers config of a shape, cut to that many layers."""
    import transformers

    values = dict(SHAPES[name])
    if layers is not None:
        values["num_hidden_layers"] = layers
    kind = values.pop("model_type")
    made = transformers.AutoConfig.for_model(kind, bos_token_id=0, eos_token_id=1, pad_token_id=2, **values)
    architecture: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(made)]
    made.architectures = [architecture.__name__]
    return made


def folder_of(models: Path, name: str, layers: int | None, start: str) -> Path:
    """Where a model of that shape lies."""
    return models / f"{name}{'' if layers is None else f'-{layers}-layers'}-{start}"


def make(models: Path, name: str, layers: int | None, start: str, *, keep_bf16: bool = False) -> Path:
    """Writes the model unless it is there: bf16 weights, or those quantized to NF4 with double quantization.

    Args:
        keep_bf16: leave the 16-bit weights beside the quantized ones; they fill the disk otherwise for nothing.
    """
    target = folder_of(models, name, layers, start)
    if (target / "config.json").exists():
        return target
    if start == "bf16":
        return _written(target, lambda part: _random(part, name, layers))
    bf16 = make(models, name, layers, "bf16")
    _written(target, lambda part: _quantized(bf16, part))
    if not keep_bf16:
        shutil.rmtree(bf16)
    return target


def _written(target: Path, write: Callable[[Path], None]) -> Path:
    """The folder, complete or absent."""
    began = time.monotonic()
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    write(part)
    tokenizer().save_pretrained(part)
    part.rename(target)
    print(f"{target.name} written in {time.monotonic() - began:.0f} s", flush=True)
    return target


def _random(part: Path, name: str, layers: int | None) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(where):
        model = transformers.AutoModelForCausalLM.from_config(config(name, layers), dtype=torch.bfloat16)
    model.save_pretrained(part)


def _quantized(bf16: Path, part: Path) -> None:
    import torch
    import transformers

    where = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.AutoModelForCausalLM.from_pretrained(
        bf16,
        dtype=torch.bfloat16,
        device_map={"": where},
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )
    model.save_pretrained(part)


def main() -> None:
    """Writes one model: FOLDER SHAPE LAYERS START KEEP-BF16, with 0 layers for all of them."""
    folder, name, layers, start, keep = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    make(Path(folder), name, int(layers) or None, start, keep_bf16=keep == "1")


if __name__ == "__main__":
    main()
