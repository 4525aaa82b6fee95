"""The memory estimate beside published figures and peaks measured on an H100 and an H200."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from loraline_api import known_models, memory, speed
from loraline_api.finetune import Adapter, Quantization, Training
from loraline_api.memory import GIB, Activations
from loraline_api.model_shape import ModelShape

LLAMA_8B = known_models.KNOWN["meta-llama/llama-3.1-8b"]
SHAPES = {
    # The 33B and 65B of the QLoRA paper are Llama 1 (arXiv 2302.13971, table 2).
    "7B": known_models.KNOWN["meta-llama/llama-2-7b-hf"],
    "13B": known_models.KNOWN["meta-llama/llama-2-13b-hf"],
    "33B": LLAMA_8B.model_copy(
        update={
            "num_hidden_layers": 60,
            "hidden_size": 6656,
            "intermediate_size": 17920,
            "num_attention_heads": 52,
            "num_key_value_heads": 52,
            "vocab_size": 32000,
        }
    ),
    "70B": known_models.KNOWN["meta-llama/llama-2-70b-hf"],
}
UPCAST_BYTES = 2 * LLAMA_8B.embedding_parameters
"""`prepare_model_for_kbit_training` of the measured rivals makes embedding and output layer float32; our trainer keeps
them in 16 bits."""


@dataclass(frozen=True)
class ARecipe:
    """A recipe of its parts."""

    adapter: Adapter = field(default_factory=Adapter)
    quantization: Quantization = field(default_factory=Quantization)
    training: Training = field(default_factory=Training)


QLORA = ARecipe(training=Training(optimizer="paged_adamw_8bit"))
LORA = ARecipe(quantization=Quantization(type="none"))


def gigabytes(shape: ModelShape, recipe: ARecipe) -> float:
    """Recomputed activations, one sequence of 2,048 tokens, in GB as the published table has it."""
    return memory.estimate(shape, recipe, Activations.RECOMPUTED, 2048).total / 1e9


# Published ranges in GB, rounded (facts from five tutorials and the QLoRA paper); a tenth more or less is let pass.
@pytest.mark.parametrize(
    ("size", "recipe", "least", "most"),
    [
        pytest.param("7B", QLORA, 5, 6, id="7B QLoRA"),
        pytest.param("13B", QLORA, 10, 10, id="13B QLoRA"),
        pytest.param("33B", QLORA, 22, 22, id="33B QLoRA"),
        pytest.param("70B", QLORA, 36, 42, id="70B QLoRA"),
        pytest.param("7B", LORA, 16, 18, id="7B LoRA in 16 bits"),
        pytest.param("13B", LORA, 28, 32, id="13B LoRA in 16 bits"),
        pytest.param("33B", LORA, 72, 72, id="33B LoRA in 16 bits"),
        pytest.param("70B", LORA, 140, 160, id="70B LoRA in 16 bits"),
    ],
)
def test_the_published_table_is_met_within_a_tenth(size: str, recipe: ARecipe, least: float, most: float) -> None:
    assert 0.9 * least <= gigabytes(SHAPES[size], recipe) <= 1.1 * most


# Peak allocated GiB, Llama-3.1-8B shape, NF4 with double quantization, rank 16 on all linears, paged 8-bit AdamW.
@pytest.mark.parametrize(
    ("activations", "tokens", "upcast", "measured"),
    [
        pytest.param(Activations.OFFLOADED, 4096, 0, 6.7, id="Unsloth's default, 2 x 2,048, H100"),
        pytest.param(Activations.OFFLOADED, 8192, 0, 7.4, id="Unsloth's default, 8,192, H100"),
        pytest.param(Activations.RECOMPUTED, 4096, UPCAST_BYTES, 11.2, id="TRL 1.16 with checkpointing, 2 x 2,048"),
        pytest.param(Activations.RECOMPUTED, 16384, UPCAST_BYTES, 19.8, id="TRL 1.15 with checkpointing, padded"),
        pytest.param(Activations.KEPT, 4096, UPCAST_BYTES, 44.5, id="TRL 1.16 without checkpointing, 2 x 2,048"),
        pytest.param(Activations.KEPT, 8192, UPCAST_BYTES, 80.7, id="TRL 1.16 without checkpointing, 8,192, H200"),
    ],
)
def test_measured_peaks_are_met_within_a_twentieth(
    activations: Activations, tokens: int, upcast: int, measured: float
) -> None:
    estimated = memory.estimate(LLAMA_8B, QLORA, activations, tokens).total + upcast
    assert estimated / GIB == pytest.approx(measured, rel=0.05)


def test_the_parts_of_an_8b_are_those_counted_by_hand() -> None:
    # training facts, "Memory floor": 3.35 GiB NF4, 1.96 embeddings, 0.63 adapter with AdamW (0.24 less in 8 bits).
    parts = memory.estimate(LLAMA_8B, ARecipe(training=Training(optimizer="adamw")), Activations.RECOMPUTED, 2048)
    assert parts.weights / GIB == pytest.approx(3.35 + 1.96, abs=0.01)
    assert parts.adapter / GIB == pytest.approx(0.63, abs=0.01)
    eight_bit = memory.estimate(LLAMA_8B, QLORA, Activations.RECOMPUTED, 2048)
    assert (parts.adapter - eight_bit.adapter) / GIB == pytest.approx(0.24, abs=0.01)


@pytest.mark.parametrize("size", SHAPES)
def test_less_is_kept_in_less_memory(size: str) -> None:
    totals = [memory.estimate(SHAPES[size], QLORA, kept, 2048).total for kept in Activations]
    assert totals == sorted(totals)


# Useful tokens a second at full rows, same model and adapter; the efficiencies are those of the built-in catalogue.
@pytest.mark.parametrize(
    ("activations", "length", "tflops", "efficiency", "measured"),
    [
        pytest.param(Activations.RECOMPUTED, 2048, 989, 0.23, 4879, id="TRL with checkpointing, H100"),
        pytest.param(Activations.KEPT, 2048, 989, 0.23, 7020, id="TRL without checkpointing, H100"),
        pytest.param(Activations.KEPT, 2048, 989, 0.27, 8170, id="TRL without checkpointing, H200"),
        pytest.param(Activations.KEPT, 8192, 989, 0.27, 8266, id="TRL without checkpointing, 8,192, H200"),
    ],
)
def test_measured_speeds_are_met_within_a_fifth(
    activations: Activations, length: int, tflops: float, efficiency: float, measured: float
) -> None:
    operations = speed.operations_per_token(LLAMA_8B, QLORA, activations, length)
    assert speed.tokens_per_second(operations, tflops, efficiency) == pytest.approx(measured, rel=0.2)


def test_operations_of_a_token_are_those_counted_by_hand() -> None:
    # training facts, a2: 30.3 GFLOP without recomputation, 44.3 with it; attention at 2,048 tokens 0.54 forward.
    kept = speed.operations_per_token(LLAMA_8B, QLORA, Activations.KEPT, 2048)
    again = speed.operations_per_token(LLAMA_8B, QLORA, Activations.RECOMPUTED, 2048)
    assert kept / 1e9 == pytest.approx(30.3 + 3.5 * 0.54, rel=0.01)
    assert again / 1e9 == pytest.approx(44.3 + 4.5 * 0.54, rel=0.01)
