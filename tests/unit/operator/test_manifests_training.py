"""The whole manifests of a run's children, compared with files; `LORALINE_GOLDEN=write` writes the files anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from loraline_api import run
from loraline_operator import manifests_training, naming
from loraline_operator.actions import Manifest
from loraline_operator.observed_finetune import Data
from unit.operator.builders import SETTINGS, FineTuneBuilder, a_finetune

GOLDEN = Path(__file__).parents[2] / "golden"

GPU = (
    a_finetune()
    .with_spec("compute.gpuType", "NVIDIA-H100-80GB-HBM3")
    .with_spec("compute.requests", {"cpu": "4", "memory": "64Gi", "ephemeral-storage": "100Gi"})
    .with_spec("compute.tolerations", [{"key": "nvidia.com/gpu", "operator": "Exists"}])
    .with_spec("compute.priorityClassName", "research")
    .with_spec("baseModel.secretRef", {"name": "hub"})
    .with_spec("activeDeadlineSeconds", 3600)
    .with_metadata(labels={"kueue.x-k8s.io/queue-name": "gpus", "app.kubernetes.io/instance": "argo"})
)
CPU = (
    a_finetune()
    .with_spec("compute.gpus", 0)
    .with_spec("baseModel.uri", "pvc://models/llama")
    .with_spec("dataset.train.uri", "configmap://tickets/train")
    .with_spec("dataset.eval", {"uri": "pvc://data/eval.jsonl"})
)


def compare(name: str, manifest: Manifest) -> None:
    text = yaml.safe_dump(manifest, sort_keys=False, width=120)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("LORALINE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "builder"), [("job-gpu", GPU), ("job-cpu", CPU)])
def test_the_job_of_an_attempt_is_the_one_in_the_file(name: str, builder: FineTuneBuilder) -> None:
    object = builder.object()
    assert object.spec is not None
    manifest = manifests_training.job(
        object.meta, object.spec, run_id="1a2b3c4d5e", attempt=2, settings_hash="aaaaaaaaaa", settings=SETTINGS
    )
    compare(name, manifest)


def test_the_memory_profile_goes_to_the_trainer_as_compute_does() -> None:
    object = GPU.with_spec("memoryProfile", "lean").object()
    assert object.spec is not None
    manifest = manifests_training.job(
        object.meta, object.spec, run_id="1a2b3c4d5e", attempt=2, settings_hash="aaaaaaaaaa", settings=SETTINGS
    )
    arguments = manifest["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--memory-profile") + 1] == "lean"


def test_the_snapshot_is_the_one_in_the_file() -> None:
    object = CPU.object()
    assert object.spec is not None
    inputs = run.resolve("tickets", "support", object.spec, data_digests={"train": "ab" * 32})
    compare(
        "snapshot", manifests_training.snapshot(object.meta, inputs, {"train": Data('{"prompt": "a"}\n', "ab", 16)})
    )


def test_bytes_that_are_no_text_go_into_binary_data() -> None:
    object = CPU.object()
    assert object.spec is not None
    inputs = run.resolve("tickets", "support", object.spec, data_digests={})
    manifest = manifests_training.snapshot(object.meta, inputs, {"train": Data("UEFSMQ==", "ab", 4, is_binary=True)})
    assert manifest["binaryData"] == {"train.data": "UEFSMQ=="}


@pytest.mark.parametrize(
    ("finetune", "pattern"),
    [
        pytest.param("tickets", "tickets-1a2b3c4d5e-1", id="a short name stays"),
        pytest.param("n" * 52, "n{43}-[0-9a-f]{6}-1a2b3c4d5e-1", id="a long name is cut and gets a hash"),
        pytest.param("a.b", "a-b-[0-9a-f]{6}-1a2b3c4d5e-1", id="dots go, as hostnames have none"),
    ],
)
def test_names_of_jobs_fit_into_labels(finetune: str, pattern: str) -> None:
    name = naming.job_name(finetune, "1a2b3c4d5e", 1)
    assert (re.fullmatch(pattern, name) is not None, len(name) <= 63) == (True, True), name


def test_two_long_names_with_one_beginning_have_two_jobs() -> None:
    first, second = (naming.job_name("n" * 51 + end, "1a2b3c4d5e", 1) for end in "ab")
    assert first != second
