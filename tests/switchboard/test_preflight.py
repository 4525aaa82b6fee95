"""`loraline-switchboard preflight`, as a Job runs it, against a real S3."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from loraline_api.conditions import Reason
from loraline_api.preflight import Verdict, parse_verdict
from loraline_api.routing import RouteVersion
from loraline_switchboard import base_model
from switchboard import harness
from switchboard.harness import S3
from switchboard.test_refusals import Bad


@pytest.fixture
def bad(s3: S3, base: Path, adapters: tuple[Path, Path], tmp_path: Path) -> Bad:
    """Makes bad adapters."""
    return Bad(s3, base, adapters[0], tmp_path / "bad")


def checked(version: RouteVersion, s3: S3, base: Path, folder: Path) -> Verdict:
    """The verdict that the program leaves."""
    described = base_model.read(base)
    (folder / "base.json.gz").write_bytes(base64.b64decode(described.card().encode()))
    secret = folder / "secrets/storage"
    secret.mkdir(parents=True, exist_ok=True)
    (secret / "AWS_ACCESS_KEY_ID").write_text(harness.ACCESS)
    (secret / "AWS_SECRET_ACCESS_KEY").write_text(harness.SECRET)
    options = {
        "--version": version.version,
        "--uri": version.uri,
        "--base": str(folder / "base.json.gz"),
        "--base-digest": described.digest,
        "--max-lora-rank": str(harness.MAX_LORA_RANK),
        "--endpoint": s3.endpoint,
        "--secrets": str(folder / "secrets"),
        "--verdict": str(folder / "verdict"),
    }
    arguments = [text for pair in options.items() for text in pair]
    path = f"{harness.ROOT / 'crds'}:{harness.ROOT / 'operator'}"
    command = [sys.executable, "-m", "loraline_switchboard", "preflight", *arguments]
    subprocess.run(command, check=True, env={"PYTHONPATH": path, "PATH": "/usr/bin"}, timeout=120)
    verdict = parse_verdict((folder / "verdict").read_text())
    assert verdict is not None
    return verdict


def test_a_published_adapter_passes(s3: S3, base: Path, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    version = s3.publish(adapters[0], base)
    assert checked(version, s3, base, tmp_path) == Verdict(version=version.version)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("nan", Reason.ADAPTER_INVALID),
        ("truncated", Reason.ADAPTER_INVALID),
        ("swapped", Reason.DIGEST_MISMATCH),
    ],
)
def test_a_bad_adapter_is_refused_for_good(kind: str, reason: Reason, bad: Bad, tmp_path: Path) -> None:
    verdict = checked(getattr(bad, kind)(), bad.s3, bad.base, tmp_path)
    assert (verdict.reason, verdict.is_final) == (reason, True)


def test_an_adapter_that_is_not_there_may_come_yet(s3: S3, base: Path, tmp_path: Path) -> None:
    absent = RouteVersion(version="000000000000", uri=f"s3://{harness.BUCKET}/adapters/000000000000")
    verdict = checked(absent, s3, base, tmp_path)
    assert (verdict.reason, verdict.is_final) == (Reason.ADAPTER_NOT_FOUND, False)
    assert verdict.message.startswith(f"{absent.uri}/manifest.json does not exist")
