"""An adapter's version and a base model's identity depend on bytes, not on names of folders."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from loraline_api import artifact


def write_safetensors(path: Path, values: bytes, metadata: dict[str, str] | None = None) -> None:
    header: dict[str, object] = {"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def test_the_version_is_sha256_over_sorted_digest_lines() -> None:
    expected = hashlib.sha256(b"11  a\n22  b\n").hexdigest()[:12]  # by hand, from the docstring
    assert artifact.adapter_version({"b": "22", "a": "11"}) == expected


def test_the_same_weights_in_another_folder_are_the_same_base_model(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_safetensors(tmp_path / name / "model.safetensors", b"weights", {"format": name})
    assert artifact.base_model_digest(tmp_path / "one") == artifact.base_model_digest(tmp_path / "two")


@pytest.mark.parametrize("position", [0, 3 << 20], ids=["first byte", "last byte"])
def test_another_training_of_the_same_shape_is_another_base_model(tmp_path: Path, position: int) -> None:
    values = bytearray((3 << 20) + 1)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, bytes(values))
    before = artifact.base_model_digest(tmp_path)
    values[position] = 1
    write_safetensors(path, bytes(values))
    assert artifact.base_model_digest(tmp_path) != before


def test_a_folder_without_safetensors_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \*\.safetensors file"):
        artifact.base_model_digest(tmp_path)
