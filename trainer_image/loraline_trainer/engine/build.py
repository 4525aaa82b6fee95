"""Reads a PEFT model and gives an engine for it, or says in a sentence why the PEFT path must do."""

from __future__ import annotations

from functools import partial
from typing import Any

import peft
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft.tuners.lora.layer import LoraLayer

from loraline_trainer.engine import fp8, nf4
from loraline_trainer.engine.architectures import ACTIVATIONS, BY_LAYER, Architecture
from loraline_trainer.engine.attention import Rules
from loraline_trainer.engine.cross_entropy import Head
from loraline_trainer.engine.embedding import Embedding
from loraline_trainer.engine.engine import Engine
from loraline_trainer.engine.fp8_group import Fp8Group
from loraline_trainer.engine.group import Adapter, Group, Linear
from loraline_trainer.engine.layer import Heads, Layer
from loraline_trainer.engine.norm import Norm
from loraline_trainer.engine.offload import Offload
from loraline_trainer.engine.stack import Stack


class Unsupported(Exception):
    """The model has something that the engine does not know; the text says what."""


def engine_for(model: Any, *, in_fp8: bool = False) -> Engine | str:
    """The engine of a PEFT model with one LoRA adapter, which trains PEFT's own parameters in place.

    Args:
        in_fp8: multiplies frozen weights in FP8, where their shapes allow it.

    Returns: a string where the engine does not take the model: what it does not know.
    """
    try:
        return _engine(model, in_fp8=in_fp8)
    except Unsupported as reason:
        return str(reason)


def head_for(model: Any) -> Head | None:
    """The output layer of a model with or without an adapter, if its logits are that layer's product and cap alone."""
    causal = causal_of(model)
    try:
        _architecture(decoder_of(causal).layers[0])
        return _head(causal)
    except (AttributeError, Unsupported):
        return None


def causal_of(model: Any) -> Any:
    """The causal model below PEFT's."""
    return model.get_base_model() if isinstance(model, peft.PeftModel) else model


def decoder_of(causal: Any) -> Any:
    """What gives the hidden states behind the last norm."""
    return causal.get_decoder() if hasattr(causal, "get_decoder") else causal.model


def _head(causal: Any) -> Head:
    head = causal.get_output_embeddings()
    if isinstance(head, LoraLayer) or type(head) is not torch.nn.Linear or head.bias is not None:
        raise Unsupported("the output layer is not a plain linear layer without bias")
    return Head(head.weight, getattr(causal.config.get_text_config(), "final_logit_softcapping", None))


def _engine(model: Any, *, in_fp8: bool) -> Engine:
    causal = causal_of(model)
    decoder = decoder_of(causal)
    config = causal.config.get_text_config()
    layers = tuple(_layer(layer, config, in_fp8=in_fp8) for layer in decoder.layers)
    stack = Stack(layers, _norm(decoder.norm, _architecture(decoder.layers[0])), Offload())
    _check_trained(model, stack)
    head, embeddings = _head(causal), causal.get_input_embeddings()
    return Engine(
        stack=stack,
        embedding=Embedding(embeddings, tied=embeddings.weight is head.weight),
        rotary=decoder.rotary_emb,
        angles_by_layer_type=_architecture(decoder.layers[0]).angles_by_layer_type,
        head=head,
    )


def _architecture(layer: Any) -> Architecture:
    kind = type(layer)
    known = BY_LAYER.get(kind.__name__)
    if known is None or not kind.__module__.startswith("transformers.models."):
        raise Unsupported(f"it does not know {kind.__name__} of {kind.__module__}")
    return known


def _layer(layer: Any, config: Any, *, in_fp8: bool) -> Layer:
    known = _architecture(layer)
    attention, mlp = layer.self_attn, layer.mlp
    if getattr(config, "attention_dropout", 0.0) or getattr(config, "resid_pdrop", 0.0):
        raise Unsupported("the base model has dropout")
    if not attention.is_causal:
        raise Unsupported("its attention sees what follows")
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in ACTIVATIONS:
        raise Unsupported(f"it does not know the activation {activation}")
    group = partial(_group, in_fp8=in_fp8)
    return Layer(
        qkv=group([getattr(attention, name) for name in known.qkv]),
        o=group([attention.o_proj]),
        gate_up=group([getattr(mlp, name) for name in known.gate_up]),
        down=group([mlp.down_proj]),
        norm_attention=_norm(layer.input_layernorm, known),
        norm_mlp=_norm(getattr(layer, known.norm_mlp), known),
        norm_attention_out=_norm(getattr(layer, known.norm_attention_out), known) if known.norm_attention_out else None,
        norm_mlp_out=_norm(getattr(layer, known.norm_mlp_out), known) if known.norm_mlp_out else None,
        q_norm=_norm(attention.q_norm, known) if known.head_norms else None,
        k_norm=_norm(attention.k_norm, known) if known.head_norms else None,
        heads=Heads(config.num_attention_heads, config.num_key_value_heads, attention.head_dim),
        rules=Rules(attention.scaling, _window(attention, config), getattr(attention, "attn_logit_softcapping", None)),
        activation=ACTIVATIONS[activation],
        kind=(getattr(attention, "layer_type", None) or "") if known.angles_by_layer_type else "",
    )


def _window(attention: Any, config: Any) -> int | None:
    """The layer's own where it has one, else the config's (Mistral, Phi-3)."""
    if hasattr(attention, "sliding_window"):
        return attention.sliding_window  # type: ignore[no-any-return]
    if type(attention).__name__ in ("MistralAttention", "Phi3Attention"):
        return getattr(config, "sliding_window", None)
    return None


def _norm(module: Any, known: Architecture) -> Norm:
    eps = getattr(module, "variance_epsilon", None)
    return Norm(module.weight, module.eps if eps is None else eps, known.plus)


def _group(modules: list[Any], *, in_fp8: bool) -> Group:
    linears = [_linear(module) for module in modules]
    takes_fp8 = in_fp8 and all(fp8.takes(linear.weight) for linear in linears)
    return Fp8Group(linears) if takes_fp8 else Group(linears)


def _linear(module: Any) -> Linear:
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    weight: nf4.Frozen
    if isinstance(base, Linear4bit):
        quantized: Any = base.weight
        if quantized.quant_state.quant_type != "nf4" and quantized.is_cuda:
            raise Unsupported(f"it does not know {quantized.quant_state.quant_type} weights")
        weight = nf4.of_layer(quantized)
    elif type(base) is torch.nn.Linear:
        weight = nf4.Dense(base.weight)
    else:
        raise Unsupported(f"it does not know layers of the class {type(base).__name__}")
    return Linear(weight, base.bias, _adapter(module) if isinstance(module, LoraLayer) else None)


def _adapter(module: Any) -> Adapter:
    active = module.active_adapters
    if len(active) != 1 or len(module.lora_A) != 1:
        raise Unsupported("the model has more than one adapter")
    name = active[0]
    if getattr(module, "merged", False) or module.disable_adapters:
        raise Unsupported("the adapter is merged or switched off")
    dropout = module.lora_dropout[name]
    if not isinstance(dropout, torch.nn.Identity) and getattr(dropout, "p", 1.0) > 0:
        raise Unsupported("adapter.dropout is not 0")
    if module.use_dora.get(name) or getattr(module, "lora_variant", {}).get(name) is not None:
        raise Unsupported("the adapter is a variant of LoRA, such as DoRA")
    down, up = module.lora_A[name], module.lora_B[name]
    if type(down) is not torch.nn.Linear or down.bias is not None or up.bias is not None:
        raise Unsupported("the adapter's matrices have biases")
    return Adapter(down.weight, up.weight, float(module.scaling[name]))


def _check_trained(model: Any, stack: Stack) -> None:
    """Every parameter that trains must be one of the engine's, or it would silently get no gradient."""
    known = {id(parameter) for parameter in stack.parameters}
    if not known:
        raise Unsupported("the model has no adapter")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in known:
            raise Unsupported(f"{name} trains, and it does not know it")
