"""What a pod of either kind may ask of the cluster: GPUs, CPU, memory and placement."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from loraline_api.model import ApiModel, Rule, by_rule
from loraline_api.storage import LABEL_VALUE, LabelValue, ObjectName, Toleration

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"

Quantity = Annotated[
    str,
    Field(
        pattern=QUANTITY,
        max_length=32,
        json_schema_extra=by_rule(
            Rule(f"self.matches(r'{QUANTITY}')", "must be a quantity, such as 500m or 2 of cpu, and 16Gi of memory")
        ),
    ),
]


class ResourceRequests(ApiModel):
    """Requests of the main container. Memory is also its limit; CPU has no limit."""

    cpu: Quantity | None = Field(default=None, description="CPU request, as in 2 or 500m.")
    memory: Quantity | None = Field(default=None, description="Memory request and limit, as in 16Gi.")
    ephemeral_storage: Quantity | None = Field(
        default=None, alias="ephemeral-storage", description="Local disk request and limit, as in 50Gi."
    )


class Compute(ApiModel):
    """Where and on what the pods run."""

    gpus: int = Field(default=1, ge=0, le=1, description="GPUs of a pod; 0 runs on CPUs.")
    gpu_type: LabelValue | None = Field(
        default=None,
        json_schema_extra=by_rule(
            Rule(
                f"self.matches('{LABEL_VALUE}')",
                "must be the value of a label: letters, digits, '-', '_' and '.', as in NVIDIA-H100-80GB-HBM3",
            )
        ),
        description="Runs on nodes whose label nvidia.com/gpu.product has this value, as in NVIDIA-H100-80GB-HBM3. A "
        "fine-tune may also name a card of the policy's catalogue, as in H100.",
    )
    requests: ResourceRequests = Field(default=ResourceRequests(), description="CPU, memory and disk of the pod.")
    node_selector: dict[str, LabelValue] = Field(default={}, description="Labels that the node must have.")
    tolerations: list[Toleration] = Field(default=[], max_length=16, description="Taints that are tolerated.")
    affinity: dict[str, Any] | None = Field(default=None, description="Affinity of the pods, as in a pod's spec.")
    priority_class_name: ObjectName | None = Field(default=None, description="PriorityClass of the pods.")
    runtime_class_name: ObjectName | None = Field(default=None, description="RuntimeClass of the pods.")
    service_account_name: ObjectName | None = Field(
        default=None, description="ServiceAccount of the pods, for workload identity (default: default)."
    )

    @property
    def total_gpus(self) -> int:
        """GPUs of all pods together."""
        return self.gpus


MAX_NODES = 64
"""Pods of one attempt. Two digits: the names of the pods end with their number."""


class TrainingCompute(Compute):
    """Where and on what the training pods run: every node is one pod."""

    gpus: int = Field(
        default=1,
        ge=0,
        le=16,
        json_schema_extra=by_rule(
            Rule("self >= 0 && self <= 16", "must be from 0 (trains on CPUs) to 16; for more GPUs raise compute.nodes")
        ),
        description="GPUs of each node; 0 trains on CPUs.",
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=MAX_NODES,
        json_schema_extra=by_rule(
            Rule(f"self >= 1 && self <= {MAX_NODES}", f"must be from 1 to {MAX_NODES}; 1 is the usual fine-tune")
        ),
        description="Nodes that train together, each on its share of a batch. All start or none does.",
    )

    @property
    def total_gpus(self) -> int:
        """GPUs of all nodes together."""
        return self.nodes * self.gpus

    @property
    def processes(self) -> int:
        """Training processes of all nodes: one for each GPU, or one a node on CPUs."""
        return self.nodes * max(self.gpus, 1)
