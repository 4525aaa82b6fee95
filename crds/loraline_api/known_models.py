"""Shapes of well-known base models by their name on the Hugging Face Hub, so that a fine-tune is sized before a pod.

From each model's public config.json. Only full names count: a size that is read out of a name would be a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loraline_api.model_shape import ModelShape
from loraline_api.storage import Scheme, parse_uri


def shape_of(uri: str, more: Mapping[str, ModelShape]) -> ModelShape | None:
    """The shape of the model at a `baseModel.uri`; None when neither `more` (by URI) nor this table knows it."""
    if uri in more:
        return more[uri]
    place = parse_uri(uri)
    return KNOWN.get(f"{place.host}/{place.path}".lower()) if place.scheme is Scheme.HF else None


def _shape(
    layers: int,
    hidden: int,
    inner: int,
    heads: tuple[int, int],
    vocab: int,
    *,
    head_dim: int | None = None,
    tied: bool = False,
) -> ModelShape:
    return ModelShape(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=head_dim or hidden // heads[0],
        vocab_size=vocab,
        tie_word_embeddings=tied,
    )


def _names(org: str, *names: str, endings: Iterable[str] = ("", "-Instruct")) -> tuple[str, ...]:
    return tuple(f"{org}/{name}{ending}" for name in names for ending in endings)


FAMILIES: tuple[tuple[tuple[str, ...], ModelShape], ...] = (
    # Llama
    (_names("meta-llama", "Llama-2-7b", endings=("-hf", "-chat-hf")), _shape(32, 4096, 11008, (32, 32), 32000)),
    (_names("meta-llama", "Llama-2-13b", endings=("-hf", "-chat-hf")), _shape(40, 5120, 13824, (40, 40), 32000)),
    (_names("meta-llama", "Llama-2-70b", endings=("-hf", "-chat-hf")), _shape(80, 8192, 28672, (64, 8), 32000)),
    (
        _names("meta-llama", "Meta-Llama-3-8B", "Meta-Llama-3.1-8B", "Llama-3.1-8B"),
        _shape(32, 4096, 14336, (32, 8), 128256),
    ),
    (
        _names("meta-llama", "Meta-Llama-3-70B", "Meta-Llama-3.1-70B", "Llama-3.1-70B", "Llama-3.3-70B"),
        _shape(80, 8192, 28672, (64, 8), 128256),
    ),
    (_names("meta-llama", "Llama-3.2-1B"), _shape(16, 2048, 8192, (32, 8), 128256, tied=True)),
    (_names("meta-llama", "Llama-3.2-3B"), _shape(28, 3072, 8192, (24, 8), 128256, tied=True)),
    # Mistral
    (
        _names("mistralai", "Mistral-7B", endings=("-v0.1", "-Instruct-v0.1", "-Instruct-v0.2")),
        _shape(32, 4096, 14336, (32, 8), 32000),
    ),
    (
        _names("mistralai", "Mistral-7B", endings=("-v0.3", "-Instruct-v0.3")),
        _shape(32, 4096, 14336, (32, 8), 32768),
    ),
    (
        _names("mistralai", "Mistral-Nemo", endings=("-Base-2407", "-Instruct-2407")),
        _shape(40, 5120, 14336, (32, 8), 131072, head_dim=128),
    ),
    (
        _names("mistralai", "Mistral-Small-24B", endings=("-Base-2501", "-Instruct-2501")),
        _shape(40, 5120, 32768, (32, 8), 131072, head_dim=128),
    ),
    # Qwen
    (_names("Qwen", "Qwen2.5-0.5B"), _shape(24, 896, 4864, (14, 2), 151936, tied=True)),
    (_names("Qwen", "Qwen2.5-1.5B"), _shape(28, 1536, 8960, (12, 2), 151936, tied=True)),
    (_names("Qwen", "Qwen2.5-3B"), _shape(36, 2048, 11008, (16, 2), 151936, tied=True)),
    (_names("Qwen", "Qwen2.5-7B"), _shape(28, 3584, 18944, (28, 4), 152064)),
    (_names("Qwen", "Qwen2.5-14B"), _shape(48, 5120, 13824, (40, 8), 152064)),
    (_names("Qwen", "Qwen2.5-32B"), _shape(64, 5120, 27648, (40, 8), 152064)),
    (_names("Qwen", "Qwen2.5-72B"), _shape(80, 8192, 29568, (64, 8), 152064)),
    (
        _names("Qwen", "Qwen3-0.6B", endings=("", "-Base")),
        _shape(28, 1024, 3072, (16, 8), 151936, head_dim=128, tied=True),
    ),
    (
        _names("Qwen", "Qwen3-1.7B", endings=("", "-Base")),
        _shape(28, 2048, 6144, (16, 8), 151936, head_dim=128, tied=True),
    ),
    (
        _names("Qwen", "Qwen3-4B", endings=("", "-Base", "-Instruct-2507")),
        _shape(36, 2560, 9728, (32, 8), 151936, head_dim=128, tied=True),
    ),
    (_names("Qwen", "Qwen3-8B", endings=("", "-Base")), _shape(36, 4096, 12288, (32, 8), 151936, head_dim=128)),
    (_names("Qwen", "Qwen3-14B", endings=("", "-Base")), _shape(40, 5120, 17408, (40, 8), 151936, head_dim=128)),
    (_names("Qwen", "Qwen3-32B", endings=("",)), _shape(64, 5120, 25600, (64, 8), 151936, head_dim=128)),
    # Gemma (the larger Gemma 3 models also see pictures and are no plain causal language models)
    (
        _names("google", "gemma-2-2b", endings=("", "-it")),
        _shape(26, 2304, 9216, (8, 4), 256000, head_dim=256, tied=True),
    ),
    (
        _names("google", "gemma-2-9b", endings=("", "-it")),
        _shape(42, 3584, 14336, (16, 8), 256000, head_dim=256, tied=True),
    ),
    (
        _names("google", "gemma-2-27b", endings=("", "-it")),
        _shape(46, 4608, 36864, (32, 16), 256000, head_dim=128, tied=True),
    ),
    (
        _names("google", "gemma-3-270m", endings=("", "-it")),
        _shape(18, 640, 2048, (4, 1), 262144, head_dim=256, tied=True),
    ),
    (
        _names("google", "gemma-3-1b", endings=("-pt", "-it")),
        _shape(26, 1152, 6912, (4, 1), 262144, head_dim=256, tied=True),
    ),
    # Phi
    (
        _names("microsoft", "Phi-3-mini", endings=("-4k-instruct", "-128k-instruct")),
        _shape(32, 3072, 8192, (32, 32), 32064),
    ),
    (_names("microsoft", "Phi-3.5-mini", endings=("-instruct",)), _shape(32, 3072, 8192, (32, 32), 32064)),
    (
        _names("microsoft", "Phi-3-medium", endings=("-4k-instruct", "-128k-instruct")),
        _shape(40, 5120, 17920, (40, 10), 32064),
    ),
    (_names("microsoft", "phi-4", endings=("",)), _shape(40, 5120, 17920, (40, 10), 100352)),
    (_names("microsoft", "Phi-4-mini", endings=("-instruct",)), _shape(32, 3072, 8192, (24, 8), 200064, tied=True)),
    # SmolLM and TinyLlama
    (_names("HuggingFaceTB", "SmolLM2-135M"), _shape(30, 576, 1536, (9, 3), 49152, tied=True)),
    (_names("HuggingFaceTB", "SmolLM2-360M"), _shape(32, 960, 2560, (15, 5), 49152, tied=True)),
    (_names("HuggingFaceTB", "SmolLM2-1.7B"), _shape(24, 2048, 8192, (32, 32), 49152, tied=True)),
    (_names("HuggingFaceTB", "SmolLM3-3B", endings=("", "-Base")), _shape(36, 2048, 11008, (16, 4), 128256, tied=True)),
    (_names("TinyLlama", "TinyLlama-1.1B-Chat", endings=("-v1.0",)), _shape(22, 2048, 5632, (32, 4), 32000)),
)

KNOWN: Mapping[str, ModelShape] = {name.lower(): shape for names, shape in FAMILIES for name in names}
"""Shapes by org/name in lower case, as the Hub does not tell cases apart."""
