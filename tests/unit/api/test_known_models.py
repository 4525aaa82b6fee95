"""The table of known models: every entry's shape gives the parameter count that its publisher states."""

from __future__ import annotations

import pytest

from loraline_api import known_models, model_shape
from loraline_api.model_shape import ModelShape

PUBLISHED = {
    # Parameters as the Hub counts them in each repository's safetensors (tied embeddings counted once).
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "mistralai/Mistral-Nemo-Base-2407": 12_247_782_400,
    "mistralai/Mistral-Small-24B-Base-2501": 23_572_403_200,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "Qwen/Qwen2.5-72B": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "google/gemma-2-27b": 27_227_128_320,
    "google/gemma-3-270m": 268_098_176,
    "google/gemma-3-1b-pt": 999_885_952,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "microsoft/Phi-3-medium-4k-instruct": 13_960_238_080,
    "microsoft/phi-4": 14_659_507_200,
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
}

NORMS_AND_BIASES = 0.0005
"""Share of a model that the shape leaves out."""


@pytest.mark.parametrize("names", [names for names, _ in known_models.FAMILIES], ids=lambda names: names[0])
def test_every_entry_has_the_parameters_that_its_publisher_counts(names: tuple[str, ...]) -> None:
    published = PUBLISHED[next(name for name in names if name in PUBLISHED)]
    shape = known_models.shape_of(f"hf://{names[0]}", {})
    assert shape is not None
    assert 0 <= published - shape.parameters <= NORMS_AND_BIASES * published


def test_a_name_that_is_not_in_the_table_is_unknown_whatever_size_it_carries() -> None:
    assert known_models.shape_of("hf://my-org/Llama-3.1-8B-tickets", {}) is None


def test_a_shape_of_the_policy_comes_first_and_may_be_of_any_place() -> None:
    shape = ModelShape(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=1000,
    )
    for uri in ("s3://models/own", "pvc://models/own", "hf://Qwen/Qwen2.5-7B"):
        assert known_models.shape_of(uri, {uri: shape}) is shape


def test_a_config_gives_the_shape_of_the_table() -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    }
    assert model_shape.from_config(config) == known_models.KNOWN["meta-llama/llama-3.1-8b"]


def test_a_mixture_of_experts_has_no_shape_here() -> None:
    assert model_shape.from_config({"model_type": "mixtral"}) is None


def test_the_adapter_of_the_published_example_has_its_parameters() -> None:
    # 4096 x 4096 at rank 16 is 131,072 of 16,777,216; Llama-3.1-8B at rank 16 on all seven linears is 41.9 M.
    shape = known_models.KNOWN["meta-llama/llama-3.1-8b"]
    assert shape.adapter_parameters(16, ["q_proj"]) == 32 * 131_072
    assert shape.adapter_parameters(16, ["all-linear"]) == 41_943_040
