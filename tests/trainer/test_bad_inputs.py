"""Bad inputs of a run: each ends in one sentence with the value, the limit and the remedy, and in its exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from loraline_api import pods
from loraline_api.outcome import ExitCode
from trainer.builders import BUCKET, Pod, recipe

SOURCE = "configmap://sums/train.jsonl"
GOOD = json.dumps({"prompt": "1+1", "completion": "2"}) + "\n"

DATA = [
    pytest.param("", f"{SOURCE} is empty: 0 examples, at least 1 is needed", id="no examples"),
    pytest.param('{"question": "a", "answer": "b"}\n', f"{SOURCE} has the fields `question`, `answer`", id="columns"),
    pytest.param(GOOD + "{oops}\n", f"{SOURCE} line 2 is not JSON", id="not JSON"),
    pytest.param(
        '{"prompt": "a", "completion": " "}\n' * 3,
        f"{SOURCE} has only empty completions: none of its 3 examples has an answer to learn",
        id="only empty completions",
    ),
]


@pytest.mark.parametrize(("data", "expected"), DATA)
def test_a_bad_dataset_ends_as_dataset_invalid(pod: Pod, data: str, expected: str) -> None:
    told = pod.holding(recipe(pod.s3.endpoint), data).attempt()
    assert told.exit_code == ExitCode.DATASET_INVALID, told.message
    assert expected in told.message


RECIPES: list[Any] = [
    pytest.param(
        {"dataset": {"train": {"uri": f"s3://{BUCKET}/none.jsonl"}}},
        ExitCode.DATASET_NOT_FOUND,
        f"dataset.train.uri is s3://{BUCKET}/none.jsonl, and the bucket {BUCKET} has no object none.jsonl",
        id="a dataset that does not exist",
    ),
    pytest.param(
        {"dataset": {"train": {"uri": "pvc://models/none.jsonl"}}},
        ExitCode.DATASET_NOT_FOUND,
        "the claim models has no file none.jsonl",
        id="a dataset that is not on its claim",
    ),
    pytest.param(
        {"baseModel": {"uri": "pvc://models/none"}},
        ExitCode.BASE_MODEL_NOT_FOUND,
        "baseModel.uri is pvc://models/none, and the claim models has no folder none",
        id="a base model that does not exist",
    ),
    pytest.param(
        {"baseModel": {"uri": f"s3://{BUCKET}/none"}},
        ExitCode.BASE_MODEL_NOT_FOUND,
        f"baseModel.uri s3://{BUCKET}/none holds no files",
        id="a base model that does not exist in S3",
    ),
    pytest.param(
        {"adapter": {"targetModules": ["c_attn"]}},
        ExitCode.INVALID_SPEC,
        "adapter.targetModules names c_attn, but the linear layers of the base model are down_proj, gate_proj",
        id="a module that the model does not have",
    ),
    pytest.param(
        {"training": {"batchSize": 8, "microBatchSize": 3}},
        ExitCode.INVALID_SPEC,
        "training.microBatchSize is 3 and training.batchSize is 8",
        id="a micro-batch that does not divide the batch",
    ),
    pytest.param(
        {"training": {"maxSeqLength": 8}},
        ExitCode.DATASET_INVALID,
        "cut before their answer at training.maxSeqLength 8",
        id="sequences too short for any answer",
    ),
    pytest.param(
        {
            "evaluation": {"gates": [{"metric": "loss", "max": 1}]},
            "dataset": {"train": {"uri": SOURCE}, "evalFraction": 0},
        },
        ExitCode.EVAL_BELOW_THRESHOLD,
        "evaluation.gates limit loss, and there are no held-out examples to measure on",
        id="a gate without held-out examples",
    ),
]


@pytest.mark.parametrize(("changes", "code", "expected"), RECIPES)
def test_a_recipe_that_cannot_work_says_why(
    pod: Pod, lines: str, changes: dict[str, Any], code: ExitCode, expected: str
) -> None:
    told = pod.holding(recipe(pod.s3.endpoint, **changes), lines).attempt()
    assert told.exit_code == code, told.message
    assert expected in told.message


@pytest.mark.parametrize("access_key", [None, "nobody"], ids=["a wrong secret", "a key that nobody has"])
def test_wrong_credentials_are_told_before_anything_is_fetched(pod: Pod, lines: str, access_key: str | None) -> None:
    pod.holding(recipe(pod.s3.endpoint, baseModel={"uri": "pvc://models/none"}), lines)
    pod.secret(access_key or pod.s3.access_key, "wrong")
    told = pod.attempt()
    assert told.exit_code == ExitCode.ACCESS_DENIED, told.message
    assert f"{pod.s3.endpoint} denies access to s3://{BUCKET}/team/runs/" in told.message
    assert "check the credentials in the Secret of output.secretRef" in told.message


def test_a_secret_without_its_keys_is_told_with_the_keys_it_has(pod: Pod, lines: str) -> None:
    pod.holding(recipe(pod.s3.endpoint), lines)
    folder = pod.at(pods.SECRETS_DIR / "output")
    (folder / "AWS_SECRET_ACCESS_KEY").rename(folder / "password")
    told = pod.attempt()
    assert told.exit_code == ExitCode.ACCESS_DENIED
    assert told.message == (
        "the Secret of output.secretRef has no key AWS_SECRET_ACCESS_KEY (it has: AWS_ACCESS_KEY_ID, password); add it"
    )


def test_a_missing_bucket_is_told_at_once(pod: Pod, lines: str) -> None:
    output = {"uri": "s3://nowhere/team", "endpoint": pod.s3.endpoint, "secretRef": {"name": "storage"}}
    told = pod.holding(recipe(pod.s3.endpoint, output=output), lines).attempt()
    assert told.exit_code == ExitCode.BUCKET_NOT_FOUND, told.message
    assert told.message == (
        f"the bucket nowhere of output.uri does not exist at {pod.s3.endpoint}; create it or correct output.uri"
    )


def config_of(base: Path, **changes: Any) -> str:
    return json.dumps({**json.loads((base / "config.json").read_text()), **changes})


MODELS: list[Any] = [
    pytest.param(
        {"architectures": ["LlamaForSequenceClassification"]}, "is a LlamaForSequenceClassification", id="no LM"
    ),
    pytest.param({"quantization_config": {"quant_method": "gptq"}}, "is quantized already (gptq)", id="quantized"),
    pytest.param({"model_type": "none", "architectures": ["NoneForCausalLM"]}, "cannot be loaded", id="unknown model"),
]


@pytest.mark.parametrize(("changes", "expected"), MODELS)
def test_a_model_that_cannot_be_tuned_is_refused(
    pod: Pod, lines: str, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    other = shutil.copytree(pod.base, tmp_path / "other")
    (other / "config.json").write_text(config_of(pod.base, **changes))
    told = Pod(pod.root, other, pod.s3).holding(recipe(pod.s3.endpoint), lines).attempt()
    assert told.exit_code == ExitCode.BASE_MODEL_INVALID, told.message
    assert expected in told.message


def test_a_model_without_safetensors_is_refused(pod: Pod, lines: str, tmp_path: Path) -> None:
    other = shutil.copytree(pod.base, tmp_path / "other")
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    told = Pod(pod.root, other, pod.s3).holding(recipe(pod.s3.endpoint), lines).attempt()
    assert told.exit_code == ExitCode.BASE_MODEL_INVALID
    assert "has no *.safetensors file; convert its weights to safetensors" in told.message


def test_a_run_of_another_version_is_refused(pod: Pod, lines: str) -> None:
    pod.holding(recipe(pod.s3.endpoint), lines)
    pod.at(pods.RUN_DIR / "run.json").write_text("{}")
    told = pod.attempt()
    assert told.exit_code == ExitCode.INVALID_SPEC
    assert "run.json is no run that this trainer reads" in told.message
