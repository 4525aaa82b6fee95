"""The GPU catalogue: what a card holds, how fast it trains, what it costs, and on which nodes it is.

The built-in entries are what the chart's values start from; prices differ between clouds and are for the platform team
to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from loraline_api.model import ApiModel
from loraline_api.storage import LabelValue

PRODUCT_LABEL = "nvidia.com/gpu.product"
"""Label of nodes by NVIDIA's GPU feature discovery."""

GpuName = Annotated[str, Field(min_length=1, max_length=63)]


class Gpu(ApiModel):
    """A kind of card."""

    memory_gib: float = Field(
        gt=0, le=10000, alias="memoryGiB", description="Memory in GiB, as `nvidia-smi` shows it (its MiB / 1024)."
    )
    bf16_tflops: float = Field(
        gt=0, le=1e6, description="Dense bfloat16 rate in TFLOP/s, from the data sheet (without sparsity)."
    )
    efficiency: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of that rate that training reaches; raise it when runs end sooner than estimated.",
    )
    price_per_hour: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Price of one card for an hour, in `currency`; without it no cost is told.",
    )
    products: list[Annotated[LabelValue, Field(min_length=1)]] = Field(
        default=[],
        max_length=16,
        description=f"Values of the node label {PRODUCT_LABEL} that are this card; a fine-tune may name one of them "
        "in compute.gpuType as well.",
    )
    node_selector: dict[str, LabelValue] = Field(
        default={}, description="Labels of its nodes, in place of `products`, where that label is not there."
    )


def _gpu(memory_gib: float, bf16_tflops: float, products: list[str], efficiency: float = 0.25) -> Gpu:
    return Gpu(memory_gib=memory_gib, bf16_tflops=bf16_tflops, products=products, efficiency=efficiency)


BUILT_IN: Mapping[str, Gpu] = {
    # Rates from NVIDIA's data sheets, dense; T4 has no bfloat16 unit, so its rate is that of float16. Efficiency of
    # H100 and H200 measured with TRL 1.16, of A100 from LLaMA-Factory's published table, of others a cautious guess.
    "T4": _gpu(15.0, 65, ["Tesla-T4"]),
    "A10G": _gpu(22.5, 70, ["NVIDIA-A10G"]),
    "L4": _gpu(22.5, 121, ["NVIDIA-L4"]),
    "L40S": _gpu(45.0, 362, ["NVIDIA-L40S"]),
    "A100-40": _gpu(40.0, 312, ["NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"], 0.35),
    "A100-80": _gpu(80.0, 312, ["NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"], 0.35),
    "H100": _gpu(79.6, 989, ["NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"], 0.23),
    "H200": _gpu(140.4, 989, ["NVIDIA-H200"], 0.27),
    "B200": _gpu(179.1, 2250, ["NVIDIA-B200"]),
}
