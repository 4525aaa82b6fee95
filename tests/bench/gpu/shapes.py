"""Shapes of the models that are timed, and a folder with random weights of such a shape.

Weights are random because no hub is in reach and speed does not depend on them; the curve's model is small and learns.
"""

from __future__ import annotations

import shutil
import sys
import time
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
        keep_bf16: write the 16-bit weights, too.
    """
    target = folder_of(models, name, layers, start)
    if (target / "config.json").exists():
        return target
    model = _random(name, layers)
    bf16 = folder_of(models, name, layers, "bf16")
    if (start == "bf16" or keep_bf16) and not bf16.exists():
        _written(bf16, model)
    if start != "bf16":
        _quantize(model)
        _written(target, model)
    return target


def _written(target: Path, model: Any) -> None:
    """The folder, complete or absent."""
    began = time.monotonic()
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer().save_pretrained(part)
    part.rename(target)
    print(f"{target.name} written in {time.monotonic() - began:.0f} s", flush=True)


def _random(name: str, layers: int | None) -> Any:
    """The model with random weights of 16 bits, on the GPU where there is one."""
    import torch
    import transformers

    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return transformers.AutoModelForCausalLM.from_config(config(name, layers), dtype=torch.bfloat16)


def _quantize(model: Any) -> None:
    """Quantizes the layers in place, as transformers does on loading: no file of 16 bits is written for it."""
    import torch
    import transformers
    from bitsandbytes.nn.modules import Linear4bit, Params4bit
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    head, device = model.get_output_embeddings(), model.device
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not torch.nn.Linear or child is head:
                continue
            with torch.device("meta"):
                layer = Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=torch.bfloat16,
                    compress_statistics=True,
                    quant_type="nf4",
                )
            whole: Any = Params4bit(
                child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=layer
            )
            layer.weight, layer.bias = whole.to(device), child.bias
            setattr(parent, name, layer)
            del child  # or it would hold its weight until the next one is done
    model.hf_quantizer = Bnb4BitHfQuantizer(settings, pre_quantized=True)
    model.config.quantization_config = settings
    model.is_loaded_in_4bit = model.is_quantized = True


def main() -> None:
    """Writes one model: FOLDER SHAPE LAYERS START KEEP-BF16, with 0 layers for all of them."""
    folder, name, layers, start, keep = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    make(Path(folder), name, int(layers) or None, start, keep_bf16=keep == "1")


if __name__ == "__main__":
    main()
