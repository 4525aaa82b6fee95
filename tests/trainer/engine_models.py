"""Small random models with an adapter, for the engine's tests: every architecture, quantized or not."""

from __future__ import annotations

import copy
from typing import Any

import peft
import torch
import transformers
from bitsandbytes.nn.modules import Linear4bit, Params4bit

from loraline_trainer.model import nf4

VOCABULARY = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "llama 2": (transformers.LlamaConfig, {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "llama 3": (transformers.LlamaConfig, {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False}),
    "smollm": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "mistral with a window": (transformers.MistralConfig, {"sliding_window": 7, "head_dim": 32}),
    "qwen 2.5": (transformers.Qwen2Config, {"tie_word_embeddings": True}),
    "qwen 3": (transformers.Qwen3Config, {"head_dim": 32}),
    "gemma 2": (
        transformers.Gemma2Config,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 7,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma 3": (
        transformers.Gemma3TextConfig,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi 3": (transformers.Phi3Config, {"sliding_window": 7}),
    "phi 4 mini": (
        transformers.Phi3Config,
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
            "tie_word_embeddings": True,
        },
    ),
}


def base(name: str, *, nf4_weights: bool = False, seed: int = 0) -> Any:
    """A random model in float32 with eager attention, whose formulas are transformers' own."""
    kind, changes = CONFIGS[name]
    torch.manual_seed(seed)
    config = kind(**{**SHAPE, **changes}, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key or key.endswith("bias"):
                value.add_(0.2 * torch.randn_like(value))
            elif "embed" not in key:
                value.mul_(4)  # 0.02 by default: products would all be nearly 0
    if nf4_weights:
        quantize(model)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model


def quantize(model: Any) -> None:
    """NF4 with double quantization, as transformers loads it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not model.get_output_embeddings():
                layer = Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=torch.float32,
                    quant_type="nf4",
                    compress_statistics=True,
                )
                layer.weight = Params4bit(
                    child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                )
                layer.bias = child.bias
                setattr(parent, name, layer.to("cpu"))
    nf4.keep_unpacked(model)


def with_adapter(model: Any, **changes: Any) -> Any:
    """The model with a LoRA adapter whose B is not zero, as in the middle of a training."""
    settings: dict[str, Any] = {"r": 5, "lora_alpha": 7, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**{**settings, **changes}))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, value in adapted.named_parameters():
            if "lora_" in key:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    adapted.train()
    return adapted


def documents(lengths: list[int], seed: int = 2) -> tuple[list[list[int]], list[list[int]]]:
    """Random tokens, and labels of which a third does not count."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = [], []
    for length in lengths:
        tokens = torch.randint(3, VOCABULARY, (length,), generator=generator)
        ignored = torch.rand(length, generator=generator) < 0.3
        ignored[0] = True
        ids.append(tokens.tolist())
        labels.append(torch.where(ignored, -100, tokens).tolist())
    return ids, labels
