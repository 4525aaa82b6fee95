"""An attempt in a pod, from run.json to the adapter in S3, on a tiny real model."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from pathlib import Path

import pytest
import safetensors.torch
import torch

from loraline_api import artifact
from loraline_api.outcome import ExitCode
from loraline_trainer import chain, errors, places
from loraline_trainer.model import lora
from loraline_trainer.progress import Tracker
from trainer.builders import BUCKET, SMALL, Pod, recipe

MEASURED = {"evaluation": {"metrics": ["loss", "perplexity", "exactMatch"], "maxNewTokens": 8, "prompts": ["1+1"]}}


def test_a_run_ends_with_a_complete_adapter_in_s3(pod: Pod, lines: str) -> None:
    a_run = recipe(pod.s3.endpoint, **MEASURED)
    told = pod.holding(a_run, lines).attempt()
    assert told.exit_code == ExitCode.SUCCEEDED, told.message
    folder, manifest = pod.published(told)
    assert {file.path for file in manifest.files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    digests = {file.path: artifact.file_sha256(folder / file.path) for file in manifest.files}
    assert manifest.version == told.version == artifact.adapter_version(digests)
    assert manifest.run_id == a_run.id
    assert manifest.base_model.digest == artifact.base_model_digest(pod.base)
    record = pod.s3.data / BUCKET / "team" / "runs" / f"{a_run.id}.json"
    assert record.read_bytes() == (folder / "manifest.json").read_bytes()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "pvc://models/tiny"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_the_outcome_tells_metrics_speed_and_answers(pod: Pod, lines: str) -> None:
    told = pod.holding(recipe(pod.s3.endpoint, **MEASURED, objective="sft"), lines).attempt()
    assert [metric.name for metric in told.metrics] == ["loss", "perplexity", "exactMatch"]
    loss = told.metrics[0]
    if not told.reused:
        assert told.steps == 4
        assert told.samples[0].prompt == "1+1"
        assert told.trainable_parameters == 4 * 2 * (4 * (64 + 64) + 3 * (64 + 128))  # r (d + k), 2 layers
    assert float(str(loss.after)) < float(str(loss.before))


def test_the_same_inputs_find_the_adapter_again_without_training(pod: Pod, lines: str) -> None:
    pod.holding(recipe(pod.s3.endpoint, dataset={"train": {"uri": "configmap://again/x.jsonl"}}), lines)
    first = pod.attempt()
    second = pod.attempt()
    assert (first.reused, second.reused) == (False, True)
    assert second.version == first.version
    assert second.metrics == first.metrics


def test_the_same_recipe_gives_the_same_bytes(pod: Pod, lines: str) -> None:
    """Two runs whose ids differ by their output only; the second one works in another folder."""
    first = pod.holding(recipe(pod.s3.endpoint), lines).attempt()
    other = {"uri": f"s3://{BUCKET}/other", "endpoint": pod.s3.endpoint, "secretRef": {"name": "storage"}}
    elsewhere = Pod(pod.root / "elsewhere", pod.base, pod.s3)
    second = elsewhere.holding(recipe(pod.s3.endpoint, output=other), lines).attempt()
    assert second.uri != first.uri
    assert second.version == first.version


def test_an_attempt_that_died_after_its_files_is_completed_by_the_next(pod: Pod, lines: str) -> None:
    """The manifest and the record are lost: neither counts as an adapter, and the files are in nobody's way."""
    a_run = recipe(pod.s3.endpoint, dataset={"train": {"uri": "configmap://died/x.jsonl"}})
    first = pod.holding(a_run, lines).attempt()
    folder, _ = pod.published(first)
    (folder / "manifest.json").unlink()
    (pod.s3.data / BUCKET / "team" / "runs" / f"{a_run.id}.json").unlink()
    second = pod.attempt()
    assert (second.reused, second.version) == (False, first.version)
    assert (folder / "manifest.json").is_file()


def test_a_record_without_its_adapter_is_told_before_training(pod: Pod, lines: str) -> None:
    a_run = recipe(pod.s3.endpoint, training={**SMALL["training"], "seed": 7})  # no other test has this adapter
    first = pod.holding(a_run, lines).attempt()
    folder, _ = pod.published(first)
    (folder / "manifest.json").unlink()
    second = pod.attempt()
    assert second.exit_code == ExitCode.INVALID_SPEC
    assert not second.steps
    assert second.message == (
        f"s3://{BUCKET}/team/runs/{a_run.id}.json names the adapter {first.version}, whose manifest is gone; "
        f"remove that record to train again"
    )


def test_a_missed_gate_publishes_nothing(pod: Pod, lines: str) -> None:
    gated = {"metrics": ["loss"], "gates": [{"metric": "loss", "max": 0.001}]}
    a_run = recipe(pod.s3.endpoint, evaluation=gated)
    told = pod.holding(a_run, lines).attempt()
    assert told.exit_code == ExitCode.EVAL_BELOW_THRESHOLD
    assert "after training, and its gate asks for at most 0.001; nothing was published" in told.message
    assert not (pod.s3.data / BUCKET / "team" / "runs" / f"{a_run.id}.json").exists()


def test_a_loss_that_is_no_number_stops_with_its_step(pod: Pod, lines: str, tmp_path: Path) -> None:
    broken = shutil.copytree(pod.base, tmp_path / "broken")
    weights = safetensors.torch.load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = torch.nan
    safetensors.torch.save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    told = Pod(pod.root, broken, pod.s3).holding(recipe(pod.s3.endpoint, adapter={"rank": 2}), lines).attempt()
    assert told.exit_code == ExitCode.LOSS_NOT_FINITE, told.message
    assert told.message.startswith("the loss is nan at step 1 of 4; lower training.learningRate (0.01)")


def test_a_gpu_that_cuda_does_not_see_ends_the_attempt_instead_of_training_on_cpus(pod: Pod, lines: str) -> None:
    more = torch.cuda.device_count() + 1
    told = pod.holding(recipe(pod.s3.endpoint), lines).attempt(gpus=more)
    assert told.exit_code == ExitCode.GPU_NOT_FOUND
    assert told.message.startswith(
        f"compute.gpus is {more} and CUDA sees {more - 1} in this pod; check the node's driver"
    )


def test_sigterm_ends_the_attempt_as_interrupted(pod: Pod, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Tracker.step

    def interrupting(self: Tracker, **numbers: object) -> None:
        step(self, **numbers)  # type: ignore[arg-type]
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    monkeypatch.setattr(Tracker, "step", interrupting)
    handler = signal.getsignal(signal.SIGTERM)
    told = pod.holding(recipe(pod.s3.endpoint, training={"maxSteps": 50, "batchSize": 8}), lines).attempt()
    assert told.exit_code == ExitCode.INTERRUPTED
    assert told.message == "stopped by SIGTERM in stage Training; a further attempt goes on from step 1"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_adapter_weights_train_in_float32(pod: Pod, lines: str) -> None:
    """TRL turns adapters of quantized models into bfloat16; exported weights that need more bits show float32."""
    folder, _ = pod.published(pod.holding(recipe(pod.s3.endpoint), lines).attempt())
    weights = safetensors.torch.load_file(folder / lora.WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    first = weights[min(weights)]
    assert not torch.equal(first, first.bfloat16().float())


def test_an_adapter_that_moved_nothing_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {"x.lora_A.weight": torch.ones(1, 2), "x.lora_B.weight": torch.zeros(2, 1)}, tmp_path / lora.WEIGHTS
    )
    with pytest.raises(errors.AdapterUnchanged, match=r"all zero after 3 steps.*raise training.learningRate \(1e-09\)"):
        lora.check_weights(tmp_path, 1e-9, 3)


def test_an_adapter_with_a_nan_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x.lora_B.weight": torch.full((2, 1), torch.nan)}, tmp_path / lora.WEIGHTS)
    with pytest.raises(errors.LossNotFinite, match=r"x\.lora_B\.weight is not finite after 3 steps"):
        lora.check_weights(tmp_path, 1e-3, 3)


def test_the_store_of_a_run_is_its_output(pod: Pod, lines: str) -> None:
    a_run = recipe(pod.s3.endpoint)
    pod.holding(a_run, lines)
    assert chain.store_of(a_run, places.Places(work=pod.root)).uri == f"s3://{BUCKET}/team"
