"""The check of an adapter in a pod of its own: the verdicts that it leaves, and what it judges by."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NoReturn

import pytest

from loraline_api.artifact import MANIFEST
from loraline_api.conditions import Reason
from loraline_api.preflight import MAX_CARD_BYTES, BaseModelCard, Verdict, parse_card, parse_verdict
from loraline_switchboard import base_model, check, s3
from loraline_switchboard.errors import Unavailable
from unit.switchboard import folders


def settings(tmp_path: Path, version: str, *, digest: str | None = None, max_lora_rank: int = 16) -> check.Settings:
    """A check of a version, against the base model in tmp_path/base."""
    base = base_model.read(tmp_path / "base")
    (tmp_path / "base.json.gz").write_bytes(base64.b64decode(base.card().encode()))
    return check.Settings(
        version=version,
        uri=f"s3://adapters/adapters/{version}",
        base=tmp_path / "base.json.gz",
        base_digest=digest or base.digest,
        max_lora_rank=max_lora_rank,
        folder=tmp_path / "store",
        storage=s3.S3Settings(None, None, tmp_path),
    )


def publish(tmp_path: Path, last_bytes: bytes = b"", **config: Any) -> str:
    """An adapter that is downloaded already; its version."""
    adapter = folders.write_adapter(tmp_path / "adapter", last_bytes=last_bytes, **config)
    manifest = folders.manifest_of(adapter, tmp_path / "base")
    (adapter / MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
    (tmp_path / "store").mkdir()
    adapter.rename(tmp_path / "store" / manifest.version)
    return manifest.version


@pytest.fixture(autouse=True)
def base(tmp_path: Path) -> None:
    """The base model."""
    folders.write_base(tmp_path / "base")


def test_a_good_adapter_passes(tmp_path: Path) -> None:
    version = publish(tmp_path)
    assert check.check(settings(tmp_path, version)) == Verdict(version=version)


def test_a_nan_is_refused_for_good(tmp_path: Path) -> None:
    version = publish(tmp_path, folders.not_a_number("F32"))
    verdict = check.check(settings(tmp_path, version))
    assert (verdict.reason, verdict.is_final) == (Reason.ADAPTER_INVALID, True)
    assert "has a NaN or infinite value" in verdict.message


def test_the_rank_limit_of_the_server_counts(tmp_path: Path) -> None:
    version = publish(tmp_path)
    verdict = check.check(settings(tmp_path, version, max_lora_rank=2))
    assert verdict.reason is Reason.RANK_EXCEEDS_SERVER


def test_a_description_of_another_base_model_is_no_ground_for_a_verdict(tmp_path: Path) -> None:
    version = publish(tmp_path)
    verdict = check.check(settings(tmp_path, version, digest="e" * 64))
    assert (verdict.reason, verdict.is_final) == (Reason.CHECK_FAILED, False)
    assert verdict.message.endswith("but eeeeeeeeeeee is served; it is tried again")


def test_a_storage_that_is_down_is_not_the_adapters_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(_: object) -> NoReturn:
        raise Unavailable(Reason.STORAGE_UNAVAILABLE, "S3 is down")

    monkeypatch.setattr(s3, "client", down)
    verdict = check.check(settings(tmp_path, "aaaaaaaaaaaa"))
    assert verdict == Verdict(
        version="aaaaaaaaaaaa", reason=Reason.STORAGE_UNAVAILABLE, message="S3 is down", is_final=False
    )


def test_whatever_an_adapter_holds_becomes_a_verdict(tmp_path: Path) -> None:
    version = publish(tmp_path, rank_pattern={"(": 4})
    verdict = check.check(settings(tmp_path, version))
    assert verdict.reason is Reason.ADAPTER_INVALID
    assert verdict.message.startswith(f"adapter {version} cannot be judged: ")


def test_a_verdict_fits_the_termination_message_whatever_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd(_: object) -> NoReturn:
        raise Unavailable(Reason.ADAPTER_NOT_FOUND, "\N{SNOWMAN}" * 3000)

    monkeypatch.setattr(s3, "client", odd)
    text = check.check(settings(tmp_path, "aaaaaaaaaaaa")).model_dump_json(by_alias=True, exclude_none=True)
    assert len(text.encode()) <= 4096
    assert parse_verdict(text) is not None


def test_a_base_model_judges_the_same_after_its_description_travelled(tmp_path: Path) -> None:
    base = base_model.read(tmp_path / "base")
    card = parse_card(base64.b64decode(base.card().encode()))
    assert base_model.from_card(card) == base


def test_the_description_of_a_large_mixture_of_experts_fits_a_config_map() -> None:
    shapes = {
        f"model.layers.{layer}.mlp.experts.{expert}.{name}": [2048, 6144]
        for layer in range(48)
        for expert in range(128)
        for name in ("gate_proj", "up_proj", "down_proj")
    }
    assert len(BaseModelCard(digest="d" * 64, layers=48, shapes=shapes).encode()) < MAX_CARD_BYTES / 4


def test_a_description_that_is_none_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the description of the base model cannot be read"):
        parse_card(b"\x1f\x8bnothing")
