"""Reads the header of a safetensors file and looks for values that are not finite, without loading a tensor library.

It reads shapes and bits only; what they mean for an adapter is `preflight`'s concern.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_HEADER_BYTES = 100_000_000
"""Longest header that is read. Source: safetensors, MAX_HEADER_SIZE."""

CHUNK_VALUES = 1 << 22
"""Values checked at once: 16 MiB of float32."""

EXPONENTS: Mapping[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
"""Integer type of the same width, and the exponent's bits: all set means infinite or not a number (IEEE 754)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies in its file; `start` and `end` count from the first byte of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        ValueError: the file is cut short or is no safetensors file; the message says which and names the numbers.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if len(first) < 8:
            raise ValueError(f"{path.name} has {size} bytes, which is too short for a safetensors file")
        (length,) = struct.unpack("<Q", first)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path.name} announces a header of {length} bytes but has {size} bytes in all")
        text = file.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        tensors = {name: _tensor(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} has a header that is no safetensors header ({error})") from error
    for name, tensor in tensors.items():
        if tensor.start < 8 + length or tensor.end > size:
            raise ValueError(f"{path.name} is truncated: tensor {name} ends at byte {tensor.end}, the file at {size}")
        if tensor.dtype in EXPONENTS and tensor.end - tensor.start != _bytes(tensor):
            raise ValueError(f"{path.name}: tensor {name} has {tensor.end - tensor.start} bytes, not {_bytes(tensor)}")
    return tensors


def first_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds a NaN or an infinity, or None. Tensors of other types are passed over."""
    for name, tensor in tensors.items():
        if tensor.dtype not in EXPONENTS:
            continue
        kind, exponent = EXPONENTS[tensor.dtype]
        count = math.prod(tensor.shape)
        if count == 0:
            continue
        with path.open("rb") as file:
            file.seek(tensor.start)
            for done in range(0, count, CHUNK_VALUES):
                bits = np.fromfile(file, dtype=kind, count=min(CHUNK_VALUES, count - done))
                if np.any((bits & kind(exponent)) == kind(exponent)):
                    return name
    return None


def _tensor(entry: Mapping[str, Any], data: int) -> Tensor:
    start, end = entry["data_offsets"]
    return Tensor(str(entry["dtype"]), tuple(int(side) for side in entry["shape"]), data + start, data + end)


def _bytes(tensor: Tensor) -> int:
    kind, _ = EXPONENTS[tensor.dtype]
    return math.prod(tensor.shape) * np.dtype(kind).itemsize
