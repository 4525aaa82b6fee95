"""The policy: what tenants may ask for, what they get when they ask for nothing, and which GPUs there are.

One YAML document in a ConfigMap beside the operator. Judging by it is the planners' work.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from loraline_api.gpus import BUILT_IN, Gpu, GpuName
from loraline_api.model import ApiModel
from loraline_api.model_shape import ModelShape
from loraline_api.storage import LabelName, LabelValue, Toleration

Glob = Annotated[str, Field(min_length=1, max_length=512)]

MAX_PROBLEMS = 3

Part = TypeVar("Part", bound=ApiModel)


class Limits(ApiModel):
    """Upper bounds; one that is not set is no bound."""

    gpus: int | None = Field(
        default=None,
        ge=0,
        description="GPUs of all fine-tunes of the namespace at once; those over it wait by order of creation.",
    )
    gpus_per_fine_tune: int | None = Field(default=None, ge=0, description="GPUs of one fine-tune.")
    gpus_per_deployment: int | None = Field(
        default=None, ge=0, description="GPUs of one AdapterDeployment: replicas times compute.gpus."
    )
    rank: int | None = Field(default=None, ge=1, description="adapter.rank.")
    max_seq_length: int | None = Field(default=None, ge=8, description="training.maxSeqLength, in tokens.")
    active_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        description="activeDeadlineSeconds of an attempt; a fine-tune that names none gets this one.",
    )


class Defaults(ApiModel):
    """What a fine-tune gets when it does not say. Never a training input, so that no run changes by them."""

    gpu_type: LabelValue | None = Field(
        default=None, min_length=1, description="compute.gpuType of fine-tunes with GPUs."
    )
    node_selector: dict[str, LabelValue] = Field(
        default={}, description="compute.nodeSelector of fine-tunes with GPUs that set none."
    )
    tolerations: list[Toleration] = Field(
        default=[], max_length=16, description="compute.tolerations of fine-tunes with GPUs that set none."
    )
    active_deadline_seconds: int | None = Field(default=None, ge=1, description="activeDeadlineSeconds.")
    ttl_seconds_after_finished: int | None = Field(default=None, ge=0, description="ttlSecondsAfterFinished.")
    queue_name: LabelName | None = Field(
        default=None, description="Kueue's local queue, as with the label kueue.x-k8s.io/queue-name."
    )


class Rules(ApiModel):
    """What holds in a namespace. In an entry of `namespaces`, what is not set is as at the top."""

    base_models: list[Glob] | None = Field(
        default=None,
        max_length=256,
        description="Patterns of baseModel.uri that are allowed, as in hf://meta-llama/*; `*` is any characters.",
    )
    buckets: list[Glob] | None = Field(
        default=None,
        max_length=256,
        description="Patterns of the S3 buckets that data, checkpoints and adapters may lie in, as in team-a-*, or "
        "with a prefix, as in shared/team-a/*.",
    )
    limits: Limits = Field(default=Limits(), description="Upper bounds.")
    defaults: Defaults = Field(default=Defaults(), description="What a fine-tune gets when it does not say.")

    @model_validator(mode="after")
    def _default_deadline_is_within_its_limit(self) -> Rules:
        default, limit = self.defaults.active_deadline_seconds, self.limits.active_deadline_seconds
        if default is not None and limit is not None and default > limit:
            raise ValueError(
                f"defaults.activeDeadlineSeconds is {default} and limits.activeDeadlineSeconds is {limit}: no "
                "fine-tune could use the default; lower it or raise the limit"
            )
        return self

    def allows_base_model(self, uri: str) -> bool:
        """Whether a base model may be used."""
        return self.base_models is None or _matches(uri, self.base_models)

    def allows_bucket(self, bucket: str, path: str) -> bool:
        """Whether an S3 place may be used; a pattern without a slash is one of whole buckets."""
        if self.buckets is None:
            return True
        whole = [pattern for pattern in self.buckets if "/" not in pattern]
        parts = [pattern for pattern in self.buckets if "/" in pattern]
        return _matches(bucket, whole) or _matches(f"{bucket}/{path}", parts)


class NamespaceRules(Rules):
    """Rules of their own for some namespaces."""

    names: list[Glob] = Field(
        min_length=1, max_length=256, description="Namespaces, or patterns of them; the first entry that matches holds."
    )


class Policy(Rules):
    """The whole policy."""

    namespaces: list[NamespaceRules] = Field(
        default=[], max_length=1000, description="Rules of their own for some namespaces; the first that matches holds."
    )
    gpus: dict[GpuName, Gpu] = Field(
        default=dict(BUILT_IN),
        max_length=64,
        description="The GPU catalogue, by the name that compute.gpuType takes.",
    )
    models: dict[Annotated[str, Field(max_length=1024)], ModelShape] = Field(
        default={},
        max_length=256,
        description="Shapes of base models that Loraline does not know, by their baseModel.uri, for the estimate.",
    )
    currency: str = Field(default="USD", min_length=1, max_length=8, description="Currency of the prices.")

    def of(self, namespace: str) -> Rules:
        """What holds in a namespace."""
        for entry in self.namespaces:
            if _matches(namespace, entry.names):
                return Rules(
                    base_models=self.base_models if entry.base_models is None else entry.base_models,
                    buckets=self.buckets if entry.buckets is None else entry.buckets,
                    limits=_over(self.limits, entry.limits),
                    defaults=_over(self.defaults, entry.defaults),
                )
        return self

    @model_validator(mode="after")
    def _rules_of_every_namespace_agree(self) -> Policy:
        for entry in self.namespaces:
            try:
                self.of(entry.names[0])
            except ValidationError as error:
                raise ValueError(f"namespaces[{entry.names[0]}]: {problem(error)}") from error
        return self

    def gpu(self, gpu_type: str) -> tuple[str, Gpu] | None:
        """The card of a compute.gpuType: by its name in the catalogue, or by the node label that it names."""
        if gpu_type in self.gpus:
            return gpu_type, self.gpus[gpu_type]
        return next(((name, gpu) for name, gpu in self.gpus.items() if gpu_type in gpu.products), None)


ALLOW_ALL = Policy()
"""The policy where there is none."""


def problem(error: ValidationError) -> str:
    """What is wrong with a policy, in a sentence for each of the first few problems."""
    return "; ".join(_sentence(item) for item in error.errors()[:MAX_PROBLEMS])


def _sentence(item: ErrorDetails) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "value_error":
        return item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{path} is missing"
    if item["type"] == "extra_forbidden":
        return f"{path} is no field of a policy"
    return f"{path or 'the document'} is {item['input']!r:.100}: {item['msg']}"


def _over(top: Part, own: Part) -> Part:
    """The upper part with what the lower one sets."""
    return top.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def _matches(text: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)
