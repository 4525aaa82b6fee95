"""Writes small base models and adapters by hand, byte for byte, so that each can be wrong in one way."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from loraline_api import artifact
from loraline_api.artifact import AdapterFile, AdapterManifest, BaseModelIdentity

WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1}
RANK = 4
MODULE = "model.layers.{}.self_attn.q_proj"
PREFIX = "base_model.model."

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape by name."""


def write_tensors(path: Path, tensors: Tensors, last_bytes: bytes = b"") -> None:
    """A safetensors file of zeros whose last bytes are these."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        end = offset + math.prod(shape) * WIDTH[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    data = bytes(offset - len(last_bytes)) + last_bytes
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_base(folder: Path, *, layers: int = 2) -> Path:
    """A base model: q_proj of each layer is [8, 16], the embedding [32, 16] is tied to lm_head."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"num_hidden_layers": layers, "tie_word_embeddings": True}))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("F32", (32, 16))}
    tensors |= {f"{MODULE.format(layer)}.weight": ("F32", (8, 16)) for layer in range(layers)}
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def factors(module: str, *, rank: int = RANK, shape: tuple[int, int] = (8, 16), dtype: str = "F32") -> Tensors:
    """A and B of a module of shape [out, in]."""
    return {
        f"{PREFIX}{module}.lora_A.weight": (dtype, (rank, shape[1])),
        f"{PREFIX}{module}.lora_B.weight": (dtype, (shape[0], rank)),
    }


def good_tensors() -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of an adapter that fits."""
    return {**factors(MODULE.format(0)), **factors(MODULE.format(1))}


def write_adapter(folder: Path, tensors: Tensors | None = None, last_bytes: bytes = b"", **config: Any) -> Path:
    """An adapter."""
    folder.mkdir(parents=True)
    text = json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", **config})
    (folder / "adapter_config.json").write_text(text)
    write_tensors(folder / "adapter_model.safetensors", good_tensors() if tensors is None else tensors, last_bytes)
    return folder


def manifest_of(folder: Path, base: Path, **changes: Any) -> AdapterManifest:
    """The manifest of what lies in a folder."""
    files = [
        AdapterFile(path=path.name, sha256=artifact.file_sha256(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
    ]
    manifest = AdapterManifest(
        version=artifact.adapter_version({file.path: file.sha256 for file in files}),
        run_id="0123456789",
        base_model=BaseModelIdentity(uri="hf://org/model", digest=artifact.base_model_digest(base)),
        rank=RANK,
        alpha=8,
        target_modules=["q_proj"],
        files=files,
        trainer_version="0",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return manifest.model_copy(update=changes)


def not_a_number(dtype: str) -> bytes:
    """The bytes of a NaN."""
    if dtype == "BF16":
        return struct.pack("<f", math.nan)[2:]
    return np.array([math.nan], dtype={"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
