"""Where things lie: the URIs that specs accept, and the parts that belong to several kinds.

Parsing only; fetching is the trainer's and the switchboard's work.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from loraline_api.model import ApiModel, Rule, by_rule

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"

BASE_MODEL_URI = r"^(hf|s3|pvc)://[^/\s]+/[^\r\n]+$"

LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"

LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]
"""Value of a label (Kubernetes: Labels and Selectors, "Syntax and character set")."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=OBJECT_NAME)]
LabelName = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]


class Scheme(StrEnum):
    """The kinds of place a URI can name."""

    HF = "hf"
    S3 = "s3"
    PVC = "pvc"
    HTTPS = "https"
    CONFIGMAP = "configmap"


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed URI: `s3://bucket/prefix`, `hf://org/name`, `pvc://claim/path`, `configmap://name/key`, `https://...`.

    `host` is the bucket, organisation, claim, ConfigMap or server; `path` is the rest, without a leading slash.
    """

    scheme: Scheme
    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.path}" if self.path else f"{self.scheme}://{self.host}"


@functools.lru_cache(maxsize=1024)  # a pass asks five times for the same few
def parse_uri(uri: str) -> Location:
    """Splits a URI into its parts.

    Raises:
        ValueError: the scheme is not one of `Scheme`, or the host is missing.
    """
    match = re.fullmatch(r"([a-z0-9]+)://([^/]+)(?:/(.*))?", uri)
    if match is None or match[1] not in {scheme.value for scheme in Scheme}:
        known = ", ".join(f"{scheme}://" for scheme in Scheme)
        raise ValueError(f"`{uri}` is not a URI that Loraline reads; it starts with one of {known}")
    return Location(Scheme(match[1]), match[2], (match[3] or "").rstrip("/"))


def uri_rule(pattern: str, example: str) -> Rule:
    """The CEL rule that a URI matches a pattern, with a message that shows how one looks."""
    return Rule(f"self.matches(r'{pattern}')", f"must look like {example}")


class SecretRef(ApiModel):
    """A Secret of the same namespace. It is mounted into the pods that need it, never copied."""

    name: ObjectName = Field(description="Name of the Secret.")


class S3Access(ApiModel):
    """How S3 is reached. Without a secretRef the pod's own identity is used (IRSA, workload identity)."""

    endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        max_length=512,
        json_schema_extra=by_rule(
            Rule("self.matches('^https?://')", "must begin with http:// or https://, as in http://s3.example:9000")
        ),
        description="URL of the S3 service, for services other than AWS, as in http://s3.example:9000.",
    )
    region: str | None = Field(default=None, max_length=64, description="Region of the bucket (default: us-east-1).")
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, optionally AWS_SESSION_TOKEN. "
        "Without it the pod's own identity is used.",
    )


class BaseModelSource(ApiModel):
    """The frozen model that adapters are trained on and served with."""

    uri: str = Field(
        pattern=BASE_MODEL_URI,
        max_length=1024,
        json_schema_extra=by_rule(uri_rule(BASE_MODEL_URI, "hf://org/name, s3://bucket/prefix or pvc://claim/path")),
        description="Where the model lies, in Hugging Face format: hf://org/name, s3://bucket/prefix or "
        "pvc://claim/path.",
    )
    revision: str | None = Field(
        default=None, max_length=128, description="Branch, tag or commit of a Hugging Face repository (hf:// only)."
    )
    secret_ref: SecretRef | None = Field(
        default=None,
        description="Secret that opens the model: HF_TOKEN for hf://, the AWS_* keys for s3:// "
        "(default for s3://: the credentials of the adapters' storage).",
    )
    trust_remote_code: bool = Field(
        default=False, description="Run Python code that the model's repository brings along. Off unless you trust it."
    )
    rules = (
        Rule(
            "!has(self.revision) || self.uri.startsWith('hf://')",
            "'baseModel.revision is ' + self.revision + ' but baseModel.uri is ' + self.uri + "
            "': only hf:// models have revisions; remove revision or name the model by hf://'",
            is_expression=True,
        ),
    )


class Toleration(ApiModel):
    """A toleration of the pod, as Kubernetes has it."""

    key: str | None = Field(default=None, max_length=317, description="Taint key; empty matches all keys.")
    operator: str | None = Field(default=None, max_length=16, description="Exists or Equal (default Equal).")
    value: str | None = Field(default=None, max_length=63, description="Taint value.")
    effect: str | None = Field(default=None, max_length=32, description="NoSchedule, PreferNoSchedule or NoExecute.")
    toleration_seconds: int | None = Field(default=None, description="Seconds a NoExecute taint is tolerated.")
