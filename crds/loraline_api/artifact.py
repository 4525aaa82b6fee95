"""A published adapter: its manifest, its version, and the identity of the base model it was trained on.

Layout below the output's prefix: `adapters/<version>/` holds the files and, written last, `manifest.json`;
`runs/<run id>.json` is the same manifest again, by which a run finds its adapter without training.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import Field

from loraline_api.model import StatusModel
from loraline_api.outcome import MetricResult

MANIFEST = "manifest.json"
VERSION_DIGITS = 12
BASE_DIGEST_SAMPLE_BYTES = 1 << 20
"""Bytes hashed at the start and the end of each weight file: enough to tell two trainings of one model apart, and a
70B model is identified in a second instead of minutes."""


class AdapterFile(StatusModel):
    """One file of an adapter."""

    path: str = Field(max_length=256, description="Path below the adapter's prefix.")
    sha256: str = Field(min_length=64, max_length=64, description="Digest of its bytes.")
    size: int = Field(ge=0, description="Bytes.")


class BaseModelIdentity(StatusModel):
    """The base model that an adapter belongs to."""

    uri: str = Field(description="URI as the fine-tune gave it.")
    revision: str | None = Field(default=None, description="Resolved commit, for hf:// models.")
    digest: str = Field(description="`base_model_digest` of its folder.")


class AdapterManifest(StatusModel):
    """What manifest.json holds. It goes up last: no manifest, no adapter."""

    schema_version: int = Field(default=1, description="Version of this format.")
    version: str = Field(min_length=12, max_length=12, description="Version of the adapter.")
    run_id: str = Field(max_length=10, description="Run that made it.")
    base_model: BaseModelIdentity = Field(description="The model it was trained on.")
    rank: int = Field(ge=1, description="Its rank.")
    alpha: int = Field(ge=1, description="Its alpha.")
    target_modules: list[str] = Field(description="Modules that it changes.")
    files: list[AdapterFile] = Field(description="Its files, sorted by path; manifest.json is not among them.")
    metrics: list[MetricResult] = Field(default=[], description="Evaluation before and after.")
    dataset_digest: str | None = Field(default=None, description="sha256 over the training examples.")
    trainer_version: str = Field(description="Version of loraline-train.")
    created_at: datetime = Field(description="When it was published.")


def adapter_version(digests: Mapping[str, str]) -> str:
    """The version of an adapter: sha256 over its sorted (path, sha256) lines, first 12 hex digits.

    Args:
        digests: sha256 in hex by path, manifest.json not among them.
    """
    text = "".join(f"{digests[path]}  {path}\n" for path in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()[:VERSION_DIGITS]


def adapter_prefix(output_uri: str, version: str) -> str:
    """URI of the adapter's folder below the output's URI."""
    return f"{output_uri.rstrip('/')}/{adapter_folder(version)}"


def adapter_folder(version: str) -> str:
    """Path, below the output's URI, of an adapter's folder."""
    return f"adapters/{version}"


def adapter_manifest(version: str) -> str:
    """Path, below the output's URI, of an adapter's manifest, which is written last and removed first."""
    return f"{adapter_folder(version)}/{MANIFEST}"


def run_record(run_id: str) -> str:
    """Path, below the output's URI, of the record by which a run finds its adapter."""
    return f"runs/{run_id}.json"


def file_sha256(path: Path) -> str:
    """sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_model_digest(folder: Path) -> str:
    """Identity of a model folder: sha256 over its tensors' names, types and shapes and samples of its weight bytes.

    The same weights in other shards give another digest; a changed config.json or tokenizer does not.

    Raises:
        FileNotFoundError: the folder has no *.safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors file")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            digest.update(json.dumps(header, sort_keys=True).encode())
            digest.update(file.read(BASE_DIGEST_SAMPLE_BYTES))
            size = path.stat().st_size
            file.seek(max(8 + length, size - BASE_DIGEST_SAMPLE_BYTES))
            digest.update(file.read(BASE_DIGEST_SAMPLE_BYTES))
    return digest.hexdigest()
