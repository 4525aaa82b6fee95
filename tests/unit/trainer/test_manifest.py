"""How a manifest becomes a run without a cluster."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from loraline_trainer import errors, manifest

FINETUNE = """
apiVersion: loraline.dev/v1alpha1
kind: LoraFineTune
metadata: {name: tickets, namespace: team-a}
spec:
  baseModel: {uri: "hf://org/name"}
  dataset: {train: {uri: "configmap://tickets/train.jsonl"}}
  output: {uri: "s3://bucket/prefix"}
"""
CONFIG_MAP = """
---
apiVersion: v1
kind: ConfigMap
metadata: {name: tickets}
data:
  train.jsonl: |
    {"prompt": "a", "completion": "b"}
"""
DATA = '{"prompt": "a", "completion": "b"}\n'


def written(folder: Path, text: str) -> Path:
    file = folder / "finetune.yaml"
    file.write_text(text)
    return file


def test_a_config_map_of_the_same_file_is_the_data(tmp_path: Path) -> None:
    recipe, files, _ = manifest.resolve(written(tmp_path, FINETUNE + CONFIG_MAP), None, {}, tmp_path / "work")
    assert files["train"].read_text() == DATA
    assert recipe.data_digests == {"train": hashlib.sha256(DATA.encode()).hexdigest()}
    assert (recipe.name, recipe.namespace) == ("tickets", "team-a")


def test_a_named_file_stands_for_a_config_map_and_gives_the_same_run(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(DATA)
    named, *_ = manifest.resolve(written(tmp_path, FINETUNE), None, {"tickets/train.jsonl": file}, tmp_path)
    inline, *_ = manifest.resolve(written(tmp_path, FINETUNE + CONFIG_MAP), None, {}, tmp_path)
    assert named.id == inline.id


REFUSED = [
    pytest.param(FINETUNE, errors.DatasetNotFound, "the manifest has no ConfigMap tickets", id="the data is missing"),
    pytest.param(CONFIG_MAP, errors.InvalidSpec, "holds 0 objects of kind LoraFineTune", id="no fine-tune"),
    pytest.param(
        f"{FINETUNE}---{FINETUNE}", errors.InvalidSpec, "holds 2 objects of kind LoraFineTune", id="two fine-tunes"
    ),
    pytest.param("{", errors.InvalidSpec, "is not YAML", id="not YAML"),
    pytest.param(
        FINETUNE.replace("v1alpha1", "v9"), errors.InvalidSpec, "apiVersion is loraline.dev/v9", id="another version"
    ),
    pytest.param(
        FINETUNE + "  adapter: {rank: 300}\n",
        errors.InvalidSpec,
        "spec.adapter.rank: Input should be less than or equal to 256 (got 300)",
        id="a rank above the limit",
    ),
    pytest.param(
        FINETUNE + "  learningRate: 1\n",
        errors.InvalidSpec,
        "spec.learningRate: Extra inputs are not permitted (got 1)",
        id="an unknown field",
    ),
]


@pytest.mark.parametrize(("text", "kind", "expected"), REFUSED)
def test_a_bad_manifest_is_refused_in_one_sentence(
    tmp_path: Path, text: str, kind: type[errors.TrainerError], expected: str
) -> None:
    with pytest.raises(kind) as caught:
        manifest.resolve(written(tmp_path, text), None, {}, tmp_path)
    assert expected in str(caught.value)
