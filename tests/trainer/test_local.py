"""`loraline-train run` and `check` on a manifest, without a cluster."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from loraline_api.outcome import ExitCode
from loraline_trainer import local

ROOT = Path(__file__).resolve().parents[2]

MANIFEST = """
apiVersion: loraline.dev/v1alpha1
kind: LoraFineTune
metadata: {name: sums}
spec:
  baseModel: {uri: "pvc://models/tiny"}
  dataset: {train: {uri: "configmap://sums/train.jsonl"}}
  training: {batchSize: 8, maxSteps: 3, learningRate: 0.01}
  adapter: {rank: 4}
  output: {uri: "s3://adapters/team"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: sums}
data:
  train.jsonl: |
"""


def loraline_train(folder: Path, base: Path, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the program on a manifest that holds the lines."""
    command, environment = program(folder, base, lines, *arguments)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def program(
    folder: Path, base: Path, lines: str, *arguments: str, manifest: str = MANIFEST
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the program on a manifest that holds the lines."""
    file = folder / "finetune.yaml"
    file.write_text(manifest + "".join(f"    {line}\n" for line in lines.splitlines()))
    command = [sys.executable, "-m", "loraline_trainer", arguments[0], "-f", str(file)]
    options = ["--workdir", str(folder / "work"), "--pvc", f"models={base.parent}", *arguments[1:]]
    paths = os.pathsep.join([str(ROOT / "crds"), str(ROOT / "trainer_image")])
    return [*command, *options], {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"}


def partition(stderr: str) -> tuple[set[str], list[str]]:
    """What Python imported, and what was said besides."""
    lines = stderr.splitlines()
    modules = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return modules, [line for line in lines if not line.startswith("import time:")]


def test_run_publishes_to_a_folder_and_shows_before_and_after(
    tmp_path: Path, base: Path, lines: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    done = loraline_train(tmp_path, base, lines, "run", "--output", str(tmp_path / "out"))
    assert done.returncode == ExitCode.SUCCEEDED, done.stdout + done.stderr
    (manifest,) = (tmp_path / "out" / "adapters").glob("*/manifest.json")
    assert f"adapter: {manifest.parent}" in done.stdout
    assert "perplexity" in done.stdout
    assert "trained 3 steps" in done.stdout
    imported, said = partition(done.stderr)
    assert said == []
    assert "torch._dynamo" in imported
    assert "torch._inductor.compile_fx" not in imported  # PyTorch's compiler, whose import takes 3 s


def test_a_run_that_was_killed_goes_on_from_its_folder(tmp_path: Path, base: Path, lines: str) -> None:
    """A real SIGKILL of the real program, some steps after a checkpoint."""
    many = MANIFEST.replace("maxSteps: 3", "maxSteps: 60").replace("adapter:", "checkpoint: {interval: 5}\n  adapter:")
    command, environment = program(tmp_path, base, lines, "run", "--output", str(tmp_path / "killed"), manifest=many)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while not list((tmp_path / "killed").glob("checkpoints/*/*/manifest.json")):
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapters").exists()
    console = Console(file=io.StringIO(), width=200)
    versions = []
    for folder in ("killed", "whole"):
        given = local.Options(
            file=tmp_path / "finetune.yaml",
            name=None,
            work=tmp_path / "work",
            secrets={},
            claims={"models": base.parent},
            data={},
            output=tmp_path / folder,
        )
        assert local.train(given, console) == ExitCode.SUCCEEDED
        versions.append([path.name for path in (tmp_path / folder / "adapters").iterdir()])
    assert versions[0] == versions[1]
    assert "resumed from step" in console.file.getvalue()  # type: ignore[attr-defined]


def test_check_shows_the_loss_mask_without_loading_the_model(tmp_path: Path, base: Path, lines: str) -> None:
    done = loraline_train(tmp_path, base, lines, "check")
    assert done.returncode == ExitCode.SUCCEEDED, done.stdout + done.stderr
    assert "36 training and 4 held-out examples of format promptCompletion" in done.stdout
    assert "assistant: [[" in done.stdout


def test_a_bad_manifest_ends_with_its_reason_and_exit_code(tmp_path: Path, base: Path) -> None:
    done = loraline_train(tmp_path, base, "{oops}", "check")
    assert done.returncode == ExitCode.DATASET_INVALID
    assert done.stdout.startswith("DatasetInvalid: configmap://sums/train.jsonl line 1 is not JSON")
