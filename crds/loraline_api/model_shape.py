"""The shape of a language model: what its memory and its arithmetic are counted from.

Dense decoders with gated feed-forward layers (Llama, Mistral, Qwen, Gemma, Phi); others have no shape here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from loraline_api.model import ApiModel

DENSE_TYPES = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "llama",
        "mistral",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""`model_type` of the configurations that are read: every layer is one attention and one gated feed-forward."""

ALL_LINEAR = "all-linear"


class ModelShape(ApiModel):
    """Sizes of a dense decoder, under the names of its config.json (in camelCase)."""

    num_hidden_layers: int = Field(ge=1, le=1000, description="Layers.")
    hidden_size: int = Field(ge=1, le=1 << 20, description="Width of the residual stream.")
    intermediate_size: int = Field(ge=1, le=1 << 22, description="Width of the feed-forward layer.")
    num_attention_heads: int = Field(ge=1, le=4096, description="Query heads.")
    num_key_value_heads: int = Field(ge=1, le=4096, description="Key and value heads.")
    head_dim: int = Field(ge=1, le=4096, description="Width of a head.")
    vocab_size: int = Field(ge=1, le=1 << 24, description="Rows of the embedding.")
    tie_word_embeddings: bool = Field(default=False, description="Whether the output layer is the embedding.")

    @property
    def query_size(self) -> int:
        """Width of all queries of a token."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Width of all keys, or all values, of a token."""
        return self.num_key_value_heads * self.head_dim

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Input and output width of the linear parts of a layer, by the names that Hugging Face gives them."""
        hidden, inner, query, key = self.hidden_size, self.intermediate_size, self.query_size, self.key_size
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, key),
            "v_proj": (hidden, key),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, inner),
            "up_proj": (hidden, inner),
            "down_proj": (inner, hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of the layers: what is quantized."""
        return self.num_hidden_layers * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding and, where it is one of its own, of the output layer: never quantized."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All weights but norms and biases, which are under 0.05 % of any model."""
        return self.linear_parameters + self.embedding_parameters

    def adapter_parameters(self, rank: int, target_modules: list[str]) -> int:
        """Weights of a LoRA adapter: rank (in + out) for each matrix. Names that no layer has count nothing."""
        widths = [sum(pair) for name, pair in self.linears.items() if _is_target(name, target_modules)]
        return self.num_hidden_layers * rank * sum(widths)


def from_config(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape in a config.json; None when the architecture is not one that is counted here."""
    if config.get("model_type") not in DENSE_TYPES:
        return None
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return ModelShape(
        num_hidden_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        vocab_size=config["vocab_size"],
        tie_word_embeddings=config.get("tie_word_embeddings", config["model_type"].startswith("gemma")),
    )


FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Parts that Phi holds as one matrix."""


def _is_target(name: str, targets: list[str]) -> bool:
    return ALL_LINEAR in targets or name in targets or any(name in FUSED.get(target, ()) for target in targets)
