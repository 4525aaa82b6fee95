"""Which adapters are refused before the engine sees them, and in which words."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loraline_api.artifact import AdapterManifest
from loraline_api.conditions import Reason
from loraline_switchboard import base_model, preflight
from loraline_switchboard.errors import Rejected
from unit.switchboard import folders
from unit.switchboard.folders import MODULE, PREFIX, Tensors, factors, good_tensors

Q0 = f"{PREFIX}{MODULE.format(0)}"


@dataclass(frozen=True)
class Case:
    """An adapter that is wrong in one way, and what is said of it."""

    reason: Reason
    message: str
    tensors: Tensors | None = None
    last_bytes: bytes = b""
    config: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)


INVALID, MISMATCH = Reason.ADAPTER_INVALID, Reason.BASE_MODEL_MISMATCH

CASES = {
    "DoRA is refused": Case(
        INVALID, "has use_dora=true, which vLLM does not serve; train it without", config={"use_dora": True}
    ),
    "a bias is refused": Case(INVALID, 'has bias="all", which vLLM does not serve', config={"bias": "all"}),
    "whole modules are refused": Case(
        INVALID, 'has modules_to_save=["lm_head"], which vLLM does not serve', config={"modules_to_save": ["lm_head"]}
    ),
    "another kind of adapter is refused": Case(INVALID, 'has peft_type="IA3"', config={"peft_type": "IA3"}),
    "a rank over the limit is refused": Case(
        Reason.RANK_EXCEEDS_SERVER,
        "has rank 64, but the server takes ranks up to 16; raise spec.server.maxLoraRank or train with a lower rank",
        tensors=factors(MODULE.format(0), rank=64),
        config={"r": 64},
    ),
    "a rank over the limit in rank_pattern is refused": Case(
        Reason.RANK_EXCEEDS_SERVER, "has rank 32, but the server takes", config={"rank_pattern": {"q_proj": 32}}
    ),
    "a rank in the file other than the config's is refused": Case(
        INVALID,
        "has rank 8 (A) and 8 (B) in model.layers.0.self_attn.q_proj, but adapter_config.json says 4; its scale",
        tensors=factors(MODULE.format(0), rank=8),
    ),
    "a layer that the base does not have is refused": Case(
        MISMATCH,
        "changes model.layers.2.self_attn.q_proj, but the base model has 2 layers (0 to 1)",
        tensors={**good_tensors(), **factors(MODULE.format(2))},
    ),
    "a module that the base does not have is refused": Case(
        MISMATCH,
        "changes model.layers.0.self_attn.z_proj, which the base model does not have",
        tensors={**good_tensors(), **factors("model.layers.0.self_attn.z_proj")},
    ),
    "another shape than the base's is refused": Case(
        MISMATCH,
        "changes model.layers.0.self_attn.q_proj with shape [8, 32], but the base model's has [8, 16]",
        tensors=factors(MODULE.format(0), shape=(8, 32)),
    ),
    "an adapter of another base is refused": Case(
        MISMATCH,
        "was trained on hf://org/other (digest 000000000000), but the model that is served has digest ",
        manifest={"base_model": {"uri": "hf://org/other", "digest": "0" * 64}},
    ),
    "half a pair of factors is refused": Case(
        INVALID,
        "has lora_A alone for model.layers.0.self_attn.q_proj; it needs both A and B",
        tensors={f"{Q0}.lora_A.weight": ("F32", (4, 16))},
    ),
    "a tensor that is no factor is refused": Case(
        INVALID,
        f"holds tensor {Q0}.lora_magnitude_vector, which is no LoRA factor",
        tensors={**good_tensors(), f"{Q0}.lora_magnitude_vector": ("F32", (8,))},
    ),
    "a type that cannot be judged is refused": Case(
        INVALID,
        "of type I8 and shape [4, 16]; matrices of F32, F16 or BF16",
        tensors=factors(MODULE.format(0), dtype="I8"),
    ),
    "no tensor at all is refused": Case(INVALID, "has no tensor in adapter_model.safetensors", tensors={}),
    "an infinity is refused": Case(
        INVALID, "has a NaN or infinite value in base_model.model.", last_bytes=struct.pack("<f", float("-inf"))
    ),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return folders.write_base(tmp_path / "base")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_refusals(case: Case, base: Path, tmp_path: Path) -> None:
    folder = folders.write_adapter(tmp_path / "adapter", case.tensors, case.last_bytes, **case.config)
    text = folders.manifest_of(folder, base).model_dump(mode="json") | case.manifest
    manifest = AdapterManifest.model_validate(text)
    with pytest.raises(Rejected) as refusal:
        preflight.check(folder, manifest, base_model.read(base), 16)
    assert refusal.value.reason is case.reason
    assert refusal.value.message.startswith(f"adapter {manifest.version} ")
    assert case.message in refusal.value.message


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_nan_in_the_last_value_is_found_in_every_type(dtype: str, base: Path, tmp_path: Path) -> None:
    tensors = factors(MODULE.format(0), dtype=dtype)
    folder = folders.write_adapter(tmp_path / "adapter", tensors, folders.not_a_number(dtype))
    with pytest.raises(Rejected, match=f"NaN or infinite value in {Q0}.lora_B.weight"):
        preflight.check(folder, folders.manifest_of(folder, base), base_model.read(base), 16)


@pytest.mark.parametrize(
    ("tensors", "config"),
    [
        pytest.param(good_tensors(), {}, id="plain LoRA"),
        pytest.param(factors(MODULE.format(0), dtype="BF16"), {}, id="bfloat16"),
        pytest.param(factors("lm_head", shape=(32, 16)), {}, id="the tied head"),
        pytest.param(
            {**factors(MODULE.format(0), rank=8), **factors(MODULE.format(1))},
            {"rank_pattern": {"layers.0.self_attn.q_proj": 8}},
            id="ranks by pattern",
        ),
        pytest.param(
            {
                f"{PREFIX}model.embed_tokens.lora_embedding_A": ("F32", (4, 32)),
                f"{PREFIX}model.embed_tokens.lora_embedding_B": ("F32", (16, 4)),
            },
            {},
            id="the embedding",
        ),
    ],
)
def test_what_fits_passes(tensors: Tensors, config: dict[str, Any], base: Path, tmp_path: Path) -> None:
    folder = folders.write_adapter(tmp_path / "adapter", tensors, **config)
    preflight.check(folder, folders.manifest_of(folder, base), base_model.read(base), 16)


def test_pickles_are_refused(base: Path, tmp_path: Path) -> None:
    folder = folders.write_adapter(tmp_path / "adapter")
    (folder / "training_args.bin").write_bytes(b"")
    with pytest.raises(Rejected, match=r"holds training_args.bin, which can run code"):
        preflight.check(folder, folders.manifest_of(folder, base), base_model.read(base), 16)


def test_a_missing_file_is_named(base: Path, tmp_path: Path) -> None:
    folder = folders.write_adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(Rejected, match=r"has no adapter_config.json; publish it in PEFT format"):
        preflight.check(folder, folders.manifest_of(folder, base), base_model.read(base), 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(b"", "has 0 bytes, which is too short", id="an empty file"),
        pytest.param(struct.pack("<Q", 1000) + b"{}", "announces a header of 1000 bytes but has 10", id="a cut header"),
        pytest.param(struct.pack("<Q", 2) + b"[]", "has a header that is no safetensors header", id="another header"),
        pytest.param(b"not a tensor file", "announces a header of", id="another file"),
    ],
)
def test_files_that_are_no_safetensors_are_refused(text: bytes, message: str, base: Path, tmp_path: Path) -> None:
    folder = folders.write_adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").write_bytes(text)
    with pytest.raises(Rejected) as refusal:
        preflight.check(folder, folders.manifest_of(folder, base), base_model.read(base), 16)
    assert message in refusal.value.message
