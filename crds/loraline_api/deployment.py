"""The kind AdapterDeployment: adapters behind routes of a multi-LoRA server, and what its status tells."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from loraline_api.compute import Compute
from loraline_api.conditions import Condition
from loraline_api.model import UNSEEN_GENERATION, ApiModel, Rule, StatusModel, by_rule
from loraline_api.selector import LabelSelector
from loraline_api.storage import BaseModelSource, LabelName, ObjectName, S3Access, uri_rule

ADAPTER_URI = r"^s3://[^/\s]+/[^\r\n]+$"
PUBLISHED_URI = r"^s3://[^/\s]+/([^\r\n]+/)?adapters/[0-9a-f]{12}/?$"
"""What the API server takes; the model takes more, so that an object of earlier times loses one route and not all."""

MAX_ROUTES = 256
"""Routes of a deployment: its own and those of the selector together."""

LoraRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]
"""Ranks that vLLM's --max-lora-rank takes (vLLM: config/lora.py, MaxLoRARanks)."""


class Server(ApiModel):
    """The inference server, vLLM."""

    image: str | None = Field(
        default=None, max_length=512, description="Image of vLLM (default: the operator's setting)."
    )
    max_loras: int = Field(
        default=4,
        ge=2,
        le=256,
        description="Adapter versions in GPU memory, and so in one batch; requests of a further one wait. "
        "As many routes are rolled out at once as there are more of them than routes, at least one.",
    )
    max_lora_rank: LoraRank = Field(
        default=64, description="Highest rank that is served; higher costs memory and speed."
    )
    max_cpu_loras: int | None = Field(
        default=None,
        ge=2,
        le=4096,
        description="Adapter versions that a pod holds (default: twice maxLoras); one is kept free for rollouts, and "
        "routes beyond wait. vLLM would read further ones from disk in the middle of requests.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(default="auto", description="Type of the weights.")
    quantization: str | None = Field(
        default=None, max_length=64, description="Quantization of the base, as vLLM names it."
    )
    max_model_len: int | None = Field(default=None, ge=16, description="Longest context in tokens.")
    extra_args: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(
        default=[], max_length=64, description="Further arguments of vLLM."
    )

    @property
    def slots(self) -> int:
        """Versions that a pod holds at most."""
        return self.max_cpu_loras if self.max_cpu_loras is not None else 2 * self.max_loras

    rules = (
        Rule(
            "!has(self.maxCpuLoras) || self.maxCpuLoras >= self.maxLoras",
            "server.maxCpuLoras is under server.maxLoras: raise it to at least maxLoras, or leave it out",
        ),
        Rule(
            "!has(self.extraArgs) || self.extraArgs.all(a, !a.startsWith('--host') && !a.startsWith('--port') && "
            "!a.startsWith('--api-server-count') && !a.startsWith('--served-model-name') && "
            "!a.startsWith('--lora-modules') && !a.startsWith('--max-lora') && !a.startsWith('--max-cpu-lora'))",
            "server.extraArgs holds an argument that Loraline sets itself (--host, --port, --api-server-count, "
            "--served-model-name, --lora-modules, --max-loras, --max-lora-rank or --max-cpu-loras); remove it, and set "
            "server.maxLoras, maxLoraRank and maxCpuLoras for the last three",
        ),
    )


class FineTuneRef(ApiModel):
    """A LoraFineTune of the same namespace."""

    name: ObjectName = Field(description="Name of the LoraFineTune; its newest adapter is served.")


class AdapterRoute(ApiModel):
    """A route: the model name that callers use, and the adapter behind it."""

    name: LabelName = Field(description="The model name that callers use.")
    finetune_ref: FineTuneRef | None = Field(default=None, description="Serve the newest adapter of this fine-tune.")
    uri: str | None = Field(
        default=None,
        pattern=ADAPTER_URI,
        max_length=1024,
        json_schema_extra=by_rule(
            uri_rule(
                PUBLISHED_URI, "s3://bucket/prefix/adapters/<version>, as status.adapter.uri of a LoraFineTune has it"
            )
        ),
        description="Serve this published adapter, as in s3://bucket/prefix/adapters/<version>.",
    )
    rules = (
        Rule(
            "has(self.finetuneRef) != has(self.uri)",
            "'adapters[' + self.name + '] needs exactly one of finetuneRef and uri'",
            is_expression=True,
        ),
    )


class AdapterDeploymentSpec(ApiModel):
    """A base model, served with the adapters of these routes."""

    base_model: BaseModelSource = Field(description="The model that is served; adapters of another are refused.")
    server: Server = Field(default=Server(), description="The inference server.")
    replicas: int = Field(default=1, ge=0, le=1000, description="Serving pods.")
    adapters: Annotated[
        list[AdapterRoute],
        Field(json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
    ] = Field(default=[], max_length=MAX_ROUTES, description="Routes, by name.")
    adapter_selector: LabelSelector | None = Field(
        default=None,
        description="Every LoraFineTune of the namespace with these labels becomes a route under its own name once it "
        "has an adapter, follows its newest one, and goes with the label or the fine-tune. adapters[] win over it.",
    )
    storage: S3Access | None = Field(
        default=None,
        description="How the pods read adapters and s3:// models (default: as the fine-tunes' output says).",
    )
    compute: Compute = Field(default=Compute(), description="Where and on what the serving pods run.")
    rules = (
        Rule(
            "!has(self.adapterSelector) || has(self.storage)",
            "spec.adapterSelector needs spec.storage, as the pods must know where adapters lie before fine-tunes come: "
            "set spec.storage.endpoint, region or secretRef, or storage: {} for AWS and the pod's own identity",
        ),
        Rule(
            "self.baseModel.uri == oldSelf.baseModel.uri",
            "spec.baseModel.uri cannot be changed, as no adapter of one base model fits another: create another "
            "AdapterDeployment and move the callers",
        ),
    )


class RouteStatus(StatusModel):
    """One route."""

    name: str = Field(max_length=63, description="The model name that callers use.")
    version: str | None = Field(default=None, max_length=12, description="Version that answers.")
    uri: str | None = Field(default=None, max_length=1024, description="URI of that version.")
    target: str | None = Field(default=None, max_length=12, description="Version that is being rolled out.")
    target_uri: str | None = Field(default=None, max_length=1024, description="URI of the version being rolled out.")
    rejected: str | None = Field(default=None, max_length=12, description="Version that was refused.")
    selected: bool | None = Field(default=None, description="True where adapterSelector made the route.")
    reason: str = Field(default="", max_length=64, description="State of the route.")
    message: str = Field(default="", max_length=1200, description="State of the route in a sentence.")


class PodVersion(StatusModel):
    """A version of a route in a pod."""

    route: str = Field(default="", max_length=63, description="The route.")
    version: str = Field(max_length=12, description="The version.")
    phase: str = Field(max_length=32, description="Its phase in that pod; Proved: loaded, listed and probed.")
    fingerprint: str | None = Field(
        default=None, max_length=12, description="Hash of its greedy answer to the probe; replicas agree on it."
    )


class PodStatus(StatusModel):
    """One serving pod."""

    name: str = Field(max_length=253, description="Name of the pod.")
    ready: bool = Field(default=False, description="Whether it gets requests.")
    problem: str | None = Field(default=None, max_length=600, description="Why it gets none.")
    held: int = Field(default=0, ge=0, description="Versions that it holds.")
    proved: int = Field(default=0, ge=0, description="Versions of them that it has proved.")
    versions: list[PodVersion] = Field(
        default=[], max_length=64, description="Those versions, unproved ones first; 512 over all pods."
    )


class AdapterDeploymentStatus(StatusModel):
    """What the operator observed."""

    observed_generation: int = Field(
        default=UNSEEN_GENERATION,
        ge=UNSEEN_GENERATION,
        description="metadata.generation that this status speaks of; -1 before the operator came by.",
    )
    phase: str = Field(
        default="Pending", max_length=32, description="Pending, Progressing, Ready, Degraded; for people."
    )
    conditions: list[Condition] = Field(default=[], max_length=32, description="Conditions, as metav1.Condition.")
    replicas: int = Field(default=0, ge=0, description="Pods.")
    ready_replicas: int = Field(default=0, ge=0, description="Pods that get requests.")
    selector: str = Field(
        default="", max_length=512, description="Label selector of the pods, for the scale subresource."
    )
    endpoint: str = Field(default="", max_length=512, description="URL of the Service inside the cluster.")
    routes: list[RouteStatus] = Field(default=[], max_length=MAX_ROUTES, description="Routes and their versions.")
    display: str = Field(default="", max_length=256, description="Routes and versions, for kubectl get.")
    pods: list[PodStatus] = Field(default=[], max_length=32, description="Serving pods, at most 32.")
    updated_at: datetime | None = Field(default=None, description="When a route last changed its version.")
