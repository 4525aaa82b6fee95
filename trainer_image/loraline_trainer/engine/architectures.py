"""What the engine must know of each architecture: an explicit table, by class of the decoder layer.

A class that is not in the table is not guessed at: the PEFT path trains it.
"""

from __future__ import annotations

from dataclasses import dataclass

from loraline_trainer.engine.gated import Activation

ACTIVATIONS = {
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "gelu_new": Activation.GELU_TANH,
}
"""By the name in a model's config."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """Names inside a decoder layer, and what its formulas are.

    Attributes:
        qkv, gate_up: linear layers of the attention and of the MLP that read the same input.
        norm_mlp, norm_attention_out, norm_mlp_out: attribute names; None where there is no such norm.
        plus: what a norm adds to its weight.
        head_norms: queries and keys pass a norm of their own.
        scale_from_query_scalar: products of query and key are scaled by config.query_pre_attn_scalar.
        angles_by_layer_type: the rotary module wants the layer's type.
    """

    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    norm_mlp: str = "post_attention_layernorm"
    norm_attention_out: str | None = None
    norm_mlp_out: str | None = None
    plus: float = 0.0
    head_norms: bool = False
    angles_by_layer_type: bool = False


LLAMA = Architecture()
QWEN3 = Architecture(head_norms=True)
GEMMA2 = Architecture(
    norm_mlp="pre_feedforward_layernorm",
    norm_attention_out="post_attention_layernorm",
    norm_mlp_out="post_feedforward_layernorm",
    plus=1.0,
)
GEMMA3 = Architecture(
    norm_mlp="pre_feedforward_layernorm",
    norm_attention_out="post_attention_layernorm",
    norm_mlp_out="post_feedforward_layernorm",
    plus=1.0,
    head_norms=True,
    angles_by_layer_type=True,
)
PHI3 = Architecture(qkv=("qkv_proj",), gate_up=("gate_up_proj",))

BY_LAYER = {
    "LlamaDecoderLayer": LLAMA,  # Llama 2 and 3, SmolLM 1 and 2
    "MistralDecoderLayer": LLAMA,
    "Qwen2DecoderLayer": LLAMA,  # Qwen 2 and 2.5
    "Qwen3DecoderLayer": QWEN3,
    "Gemma2DecoderLayer": GEMMA2,
    "Gemma3DecoderLayer": GEMMA3,
    "Phi3DecoderLayer": PHI3,  # Phi-3 and Phi-4
}
"""By the name of transformers' own class; see `build` for how impostors are kept out."""
