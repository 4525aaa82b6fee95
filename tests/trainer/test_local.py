"""`loraline-train run` and `check` on a manifest, without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from loraline_api.outcome import ExitCode

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
    manifest = folder / "finetune.yaml"
    manifest.write_text(MANIFEST + "".join(f"    {line}\n" for line in lines.splitlines()))
    command = [sys.executable, "-m", "loraline_trainer", arguments[0], "-f", str(manifest)]
    options = ["--workdir", str(folder / "work"), "--pvc", f"models={base.parent}", *arguments[1:]]
    paths = os.pathsep.join([str(ROOT / "crds"), str(ROOT / "trainer_image")])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"}
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)


def test_run_publishes_to_a_folder_and_shows_before_and_after(tmp_path: Path, base: Path, lines: str) -> None:
    done = loraline_train(tmp_path, base, lines, "run", "--output", str(tmp_path / "out"))
    assert done.returncode == ExitCode.SUCCEEDED, done.stdout + done.stderr
    (manifest,) = (tmp_path / "out" / "adapters").glob("*/manifest.json")
    assert f"adapter: {manifest.parent}" in done.stdout
    assert "perplexity" in done.stdout
    assert "trained 3 steps" in done.stdout
    assert done.stderr == ""


def test_check_shows_the_loss_mask_without_loading_the_model(tmp_path: Path, base: Path, lines: str) -> None:
    done = loraline_train(tmp_path, base, lines, "check")
    assert done.returncode == ExitCode.SUCCEEDED, done.stdout + done.stderr
    assert "36 training and 4 held-out examples of format promptCompletion" in done.stdout
    assert "assistant: [[" in done.stdout


def test_a_bad_manifest_ends_with_its_reason_and_exit_code(tmp_path: Path, base: Path) -> None:
    done = loraline_train(tmp_path, base, "{oops}", "check")
    assert done.returncode == ExitCode.DATASET_INVALID
    assert done.stdout.startswith("DatasetInvalid: configmap://sums/train.jsonl line 1 is not JSON")
