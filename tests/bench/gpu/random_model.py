"""A Llama of random NF4 weights, made on the GPU itself: no file of 16 GB is written or read."""

from __future__ import annotations

from typing import Any

import peft
import torch
import transformers
from bitsandbytes import functional
from bitsandbytes.nn.modules import Linear4bit, Params4bit

LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def llama(layers: int, vocabulary: int = 128256) -> Any:
    """The base model in bfloat16 with NF4 layers, frozen."""
    config = transformers.LlamaConfig(**LLAMA_8B, num_hidden_layers=layers, vocab_size=vocabulary)
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = transformers.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not model.lm_head:
                setattr(parent, name, random_layer(child.in_features, child.out_features))
                del child
    model.requires_grad_(False)
    model.config.use_cache = False
    torch.cuda.empty_cache()
    return model


def random_layer(columns: int, rows: int) -> Linear4bit:
    """A 4-bit layer of Gaussian weights that spread by 0.02, quantized by bitsandbytes."""
    whole = torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * 0.02
    packed, state = functional.quantize_4bit(whole, quant_type="nf4", compress_statistics=True)
    with torch.device("meta"):
        layer = Linear4bit(columns, rows, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight = Params4bit(
        packed, requires_grad=False, quant_state=state, quant_type="nf4", blocksize=64, bnb_quantized=True
    )
    layer.quant_state = state
    return layer


def adapted(model: Any, rank: int = 16) -> Any:
    """The model with a float32 adapter whose B is not zero."""
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", bias="none", task_type="CAUSAL_LM"
    )
    found = peft.get_peft_model(model, config, autocast_adapter_dtype=True)
    with torch.no_grad():
        for name, value in found.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.005)
    found.train()
    return found


def unquantized(model: Any) -> None:
    """Turns a model in place into its float32 reference: dequantized weights, float32 everywhere."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear4bit):
                weight: Any = child.weight
                whole = functional.dequantize_4bit(weight.data, weight.quant_state).float()
                with torch.device("meta"):
                    plain = torch.nn.Linear(child.in_features, child.out_features, bias=False)
                plain.weight = torch.nn.Parameter(whole, requires_grad=False)
                setattr(module, name, plain)
    model.float()
