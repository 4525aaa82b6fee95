"""The estimate in the status of a fine-tune, and cards that are refused before a pod is made."""

from __future__ import annotations

from typing import Any

import pytest

from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import Estimate
from loraline_api.gpus import BUILT_IN
from loraline_api.policy import Policy
from loraline_operator import plan_estimate
from unit.operator.builders import a_finetune

LLAMA_8B = "hf://meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "hf://meta-llama/Llama-3.3-70B-Instruct"
PRICED = Policy(gpus={"H100": BUILT_IN["H100"].model_copy(update={"price_per_hour": 4.0})}, currency="EUR")


def a_spec(uri: str = LLAMA_8B, **changes: Any) -> LoraFineTuneSpec:
    """A spec with a base model and other fields changed."""
    builder = a_finetune().with_spec("baseModel.uri", uri)
    for path, value in changes.items():
        builder = builder.with_spec(path.replace("__", "."), value)
    spec = builder.object().spec
    assert spec is not None
    return spec


def estimated(spec: LoraFineTuneSpec, policy: Policy = PRICED) -> Estimate:
    """The estimate of a spec that takes GPUs."""
    estimate = plan_estimate.estimate(spec, "support", policy)
    assert estimate is not None
    return estimate


def test_memory_speed_and_price_are_told_for_the_card_that_is_named() -> None:
    told = estimated(a_spec(compute__gpuType="H100"))
    # 5.31 GiB weights, 0.63 adapter, 2,048 tokens x 0.71 MiB activations, 0.47 buffers.
    assert float(told.memory_gib or 0) == pytest.approx(7.8, abs=0.1)
    # Nothing is recomputed on 80 GB: 7,020 tokens/s were measured with TRL on an H100.
    assert told.tokens_per_second is not None
    assert told.tokens_per_second == pytest.approx(7020, rel=0.2)
    assert told.seconds_per_million_tokens == pytest.approx(1e6 / 7020, rel=0.2)
    assert told.cost_per_million_tokens == f"{4 * 1e6 / told.tokens_per_second / 3600:.2f} EUR"
    assert (told.hours, told.cost) == (None, None)


def test_a_bound_of_the_tokens_gives_hours_and_price_of_the_run() -> None:
    told = estimated(a_spec(compute__gpuType="H100", training__maxSteps=1000))
    assert told.tokens_per_second is not None
    hours = 1000 * 16 * 2048 / told.tokens_per_second / 3600
    assert float(told.hours or 0) == pytest.approx(hours, rel=0.05)
    assert float((told.cost or "0 EUR").split()[0]) == pytest.approx(4 * hours, rel=0.05)


def test_without_a_type_the_smallest_card_that_fits_is_told() -> None:
    told = estimated(a_spec(), Policy())
    assert told.gpu == told.gpus[0] == "T4"
    assert estimated(a_spec(LLAMA_70B), Policy()).gpus == ["H100", "A100-80", "H200", "B200"]


def test_without_a_price_no_cost_is_told() -> None:
    assert estimated(a_spec(training__maxSteps=10), Policy()).cost is None


def test_an_unknown_model_is_said_to_be_unknown_and_nothing_is_refused() -> None:
    spec = a_spec("hf://org/Llama-70B-of-ours", compute__gpuType="T4")
    assert estimated(spec).message == (
        "the size of hf://org/Llama-70B-of-ours is not known: there is no estimate, and no card is refused; `models` "
        "of the policy takes its shape"
    )
    assert plan_estimate.too_small(spec, "support", Policy()) is None


def test_a_fine_tune_on_cpus_has_no_estimate_of_gpus() -> None:
    assert plan_estimate.estimate(a_spec(compute__gpus=0), "support", Policy()) is None


@pytest.mark.parametrize(
    ("spec", "policy", "message"),
    [
        pytest.param(
            a_spec(LLAMA_70B, compute__gpuType="A10G"),
            Policy(),
            "spec.baseModel.uri is hf://meta-llama/Llama-3.3-70B-Instruct (70.6 billion parameters), which needs at "
            "least 41.0 GiB of GPU memory with microBatchSize 1 and every activation computed again, and "
            "spec.compute.gpuType, A10G, has 22.5; set spec.compute.gpuType to H100 or A100-80 or H200",
            id="a named card that is too small",
        ),
        pytest.param(
            a_spec(LLAMA_70B, compute__gpuType="NVIDIA-L4"),
            Policy(),
            "spec.baseModel.uri is hf://meta-llama/Llama-3.3-70B-Instruct (70.6 billion parameters), which needs at "
            "least 41.0 GiB of GPU memory with microBatchSize 1 and every activation computed again, and "
            "spec.compute.gpuType, NVIDIA-L4, has 22.5; set spec.compute.gpuType to H100 or A100-80 or H200",
            id="a card named by its label",
        ),
        pytest.param(
            a_spec(LLAMA_70B, quantization__type="none"),
            Policy(gpus={"H100": BUILT_IN["H100"]}),
            "spec.baseModel.uri is hf://meta-llama/Llama-3.3-70B-Instruct (70.6 billion parameters), which needs at "
            "least 134.8 GiB of GPU memory with microBatchSize 1 and every activation computed again, and the largest "
            "GPU of the catalogue, H100, has 79.6; set quantization.type to nf4, or ask the platform team",
            id="larger than every card of the catalogue",
        ),
        pytest.param(
            a_spec(LLAMA_70B),
            Policy.model_validate({"defaults": {"gpuType": "L4"}}),
            "spec.baseModel.uri is hf://meta-llama/Llama-3.3-70B-Instruct (70.6 billion parameters), which needs at "
            "least 41.0 GiB of GPU memory with microBatchSize 1 and every activation computed again, and the policy's "
            "default gpuType, L4, has 22.5; set spec.compute.gpuType to H100 or A100-80 or H200",
            id="the policy's default is too small",
        ),
        pytest.param(a_spec(LLAMA_70B, compute__gpuType="L40S"), Policy(), None, id="one that just holds it"),
        pytest.param(a_spec(LLAMA_70B, compute__gpuType="MI300X"), Policy(), None, id="a card that nobody knows"),
        pytest.param(a_spec(LLAMA_70B), Policy(gpus={}), None, id="an empty catalogue"),
        pytest.param(a_spec(LLAMA_70B, compute__gpus=0), Policy(), None, id="no card at all"),
        pytest.param(
            a_spec(LLAMA_8B, compute__gpuType="T4", training__maxSeqLength=131072),
            Policy(),
            None,
            id="a long maxSeqLength, as the examples may be short",
        ),
    ],
)
def test_a_card_is_refused_only_when_it_cannot_hold_the_model(
    spec: LoraFineTuneSpec, policy: Policy, message: str | None
) -> None:
    assert plan_estimate.too_small(spec, "support", policy) == message
