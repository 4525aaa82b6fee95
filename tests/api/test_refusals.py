"""The API server itself refuses bad objects, in sentences that name field, value, limit and remedy."""

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster import fixture

FINETUNE: dict[str, Any] = {
    "apiVersion": "loraline.dev/v1alpha1",
    "kind": "LoraFineTune",
    "metadata": {"name": "tickets", "namespace": "default"},
    "spec": {
        "baseModel": {"uri": "hf://org/model"},
        "dataset": {"train": {"uri": "configmap://tickets/train.jsonl"}},
        "output": {"uri": "s3://adapters/tickets"},
    },
}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "loraline.dev/v1alpha1",
    "kind": "AdapterDeployment",
    "metadata": {"name": "support", "namespace": "default"},
    "spec": {"baseModel": {"uri": "hf://org/model"}},
}


def with_spec(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = changed["spec"]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return changed


def apply(kubeconfig: Path, body: dict[str, Any]) -> tuple[int, str]:
    """What `kubectl apply` answers; nothing is stored."""
    result = subprocess.run(
        [str(fixture.programs() / "kubectl"), f"--kubeconfig={kubeconfig}", "apply", "--dry-run=server", "-f", "-"],
        input=json.dumps(body),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"sped": 1}, 'unknown field "spec.sped"', id="an unknown field"),
        pytest.param(
            {"quantization.computeDtype": "float8", "compute.gpus": 0},
            "quantization.computeDtype is float8 and compute.gpus is 0: FP8 wants a GPU",
            id="FP8 on CPUs",
        ),
        pytest.param(
            {"quantization.computeDtype": "float8", "adapter.dropout": 0.1},
            "quantization.computeDtype is float8 and adapter.dropout is over 0",
            id="FP8 with dropout",
        ),
        pytest.param(
            {"adapter.rank": 0},
            "spec.adapter.rank: Invalid value: 0: must be from 1 to 256; 16 is a good start",
            id="rank 0",
        ),
        pytest.param(
            {"adapter.rank": 300}, "spec.adapter.rank: Invalid value: 300: must be from 1 to 256", id="rank 300"
        ),
        pytest.param(
            {"checkpoint.interval": 0},
            "spec.checkpoint.interval: Invalid value: 0: must be from 1 to 1000000 optimizer steps; 50 is usual",
            id="no step between checkpoints",
        ),
        pytest.param(
            {"checkpoint.keep": 0},
            "spec.checkpoint.keep: Invalid value: 0: must be from 1 to 100; 2 leaves one to fall back to",
            id="no checkpoint kept",
        ),
        pytest.param(
            {"baseModel.uri": "HuggingFaceTB/SmolLM2"},
            'spec.baseModel.uri: Invalid value: "HuggingFaceTB/SmolLM2": must look like hf://org/name',
            id="a base model without a scheme",
        ),
        pytest.param(
            {"baseModel": {"uri": "s3://models/m", "revision": "main"}},
            "baseModel.revision is main but baseModel.uri is s3://models/m: only hf:// models have revisions",
            id="a revision of a model that has none",
        ),
        pytest.param(
            {"dataset.train.uri": "ftp://host/file"},
            'spec.dataset.train.uri: Invalid value: "ftp://host/file": must look like configmap://name/key, s3://bucket/key',
            id="data over ftp",
        ),
        pytest.param(
            {"dataset.train.uri": "configmap://tickets/train\n"},
            "must look like configmap://name/key",
            id="a line break after the place of the data",
        ),
        pytest.param(
            {"output.uri": "/tmp/out"},
            'spec.output.uri: Invalid value: "/tmp/out": must look like s3://bucket/prefix',
            id="output into a folder",
        ),
        pytest.param(
            {"evaluation.gates": [{"metric": "exactMatch", "min": 0.9}]},
            "evaluation.gates names a metric that evaluation.metrics does not measure; add it to evaluation.metrics",
            id="a gate on what is not measured",
        ),
        pytest.param(
            {"evaluation.gates": [{"metric": "loss"}]},
            "the gate on loss has neither min nor max; set one of them",
            id="a gate without a limit",
        ),
        pytest.param(
            {"evaluation.gates": [{"metric": "loss", "min": 2, "max": 1}]},
            "min is over max",
            id="a gate that none can pass",
        ),
        pytest.param(
            {"evaluation.metrics": ["exactMatch"], "evaluation.gates": [{"metric": "exactMatch", "min": 90}]},
            "exactMatch is a share from 0 to 1, so that no adapter can pass a min over 1; write 90 % as 0.9",
            id="a gate in per cent",
        ),
        pytest.param(
            {"training.batchSize": 7, "training.microBatchSize": 4},
            "training.batchSize is no multiple of training.microBatchSize; choose a divisor of batchSize",
            id="a micro-batch that does not divide the batch",
        ),
        pytest.param(
            {"output.endpoint": "minio:9000"},
            'spec.output.endpoint: Invalid value: "minio:9000": must begin with http:// or https://, as in http://',
            id="an endpoint without a scheme",
        ),
        pytest.param(
            {"compute.requests": {"memory": "lots"}},
            'spec.compute.requests.memory: Invalid value: "lots": must be a quantity, such as 500m or 2 of cpu',
            id="memory in words",
        ),
        pytest.param(
            {"compute.gpuType": "hf://org/name"},
            'spec.compute.gpuType: Invalid value: "hf://org/name": must be the value of a label: letters, digits,',
            id="a URI as the type of the GPU",
        ),
        pytest.param(
            {"compute.nodeSelector": {"pool": "a/b"}},
            "spec.compute.nodeSelector.pool: Invalid value:",
            id="a selector of nodes that matches no label",
        ),
        pytest.param(
            {"dataset.evalFraction": 0, "evaluation.gates": [{"metric": "loss", "max": 1}]},
            "evaluation.gates need held-out examples: set dataset.eval or a dataset.evalFraction over 0",
            id="gates without held-out examples",
        ),
        pytest.param(
            {"compute.gpus": 32},
            "must be from 0 (trains on CPUs) to 16; for more GPUs raise compute.nodes",
            id="32 GPUs",
        ),
        pytest.param(
            {"compute.nodes": 65}, "spec.compute.nodes: Invalid value: 65: must be from 1 to 64", id="65 nodes"
        ),
        pytest.param(
            {"compute.nodes": 3, "compute.gpus": 2},
            "training.batchSize is not a multiple of compute.nodes times compute.gpus",
            id="a batch that cannot be shared out",
        ),
        pytest.param(
            {"output.deletionPolicy": "Recycle"},
            'supported values: "Retain", "Delete"',
            id="an unknown deletion policy",
        ),
        pytest.param({"training.learningRate": 0}, "spec.training.learningRate", id="learning rate 0"),
        pytest.param({"adapter.method": "dora"}, 'supported values: "lora"', id="a method that is not there yet"),
    ],
)
def test_a_bad_fine_tune_is_refused_with_its_reason(crds: Path, changes: dict[str, Any], sentence: str) -> None:
    code, answer = apply(crds, with_spec(FINETUNE, changes))
    assert (code != 0, sentence in answer) == (True, True), answer


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"adapters": [{"name": "a"}]},
            "adapters[a] needs exactly one of finetuneRef and uri",
            id="a route to nothing",
        ),
        pytest.param(
            {"adapters": [{"name": "a", "uri": "s3://b/p", "finetuneRef": {"name": "t"}}]},
            "adapters[a] needs exactly one of finetuneRef and uri",
            id="a route to two things",
        ),
        pytest.param(
            {"adapters": [{"name": "a", "uri": "hf://org/adapter"}]},
            "must look like s3://bucket/prefix/adapters/<version>",
            id="an adapter outside of S3",
        ),
        pytest.param(
            {"adapters": [{"name": "a", "uri": "s3://bucket/prefix"}]},
            "must look like s3://bucket/prefix/adapters/<version>, as status.adapter.uri of a LoraFineTune has it",
            id="a prefix in place of a version",
        ),
        pytest.param(
            {"adapters": [{"name": "a", "uri": "s3://b/p"}, {"name": "a", "uri": "s3://b/q"}]},
            "Duplicate value",
            id="two routes of one name",
        ),
        pytest.param({"server.maxLoraRank": 48}, "Unsupported value: 48", id="a rank that vLLM does not take"),
        pytest.param(
            {"server": {"maxLoras": 8, "maxCpuLoras": 4}},
            "server.maxCpuLoras is under server.maxLoras",
            id="too few CPU slots",
        ),
        pytest.param(
            {"server.extraArgs": ["--host=0.0.0.0"]},
            "server.extraArgs holds an argument that Loraline sets itself",
            id="an argument that opens vLLM to the network",
        ),
        pytest.param(
            {"server.extraArgs": ["--max-cpu-loras=64"]},
            "remove it, and set server.maxLoras, maxLoraRank and maxCpuLoras for the last three",
            id="a limit past its field",
        ),
        pytest.param(
            {"adapterSelector": {"matchLabels": {"serve": "support"}}},
            "spec.adapterSelector needs spec.storage",
            id="a selector without storage",
        ),
        pytest.param(
            {"storage": {}, "adapterSelector": {"matchExpressions": [{"key": "serve", "operator": "In"}]}},
            "matchExpressions: serve has operator In: In and NotIn need at least one of values, Exists and",
            id="a selector that compares with nothing",
        ),
        pytest.param(
            {"storage": {}, "adapterSelector": {"matchExpressions": [{"key": "serve", "operator": "Equals"}]}},
            'supported values: "In", "NotIn", "Exists", "DoesNotExist"',
            id="a selector with an operator that Kubernetes has not",
        ),
    ],
)
def test_a_bad_deployment_is_refused_with_its_reason(crds: Path, changes: dict[str, Any], sentence: str) -> None:
    code, answer = apply(crds, with_spec(DEPLOYMENT, changes))
    assert (code != 0, sentence in answer) == (True, True), answer


def test_the_base_model_of_a_deployment_cannot_be_changed(crds: Path) -> None:
    kubectl = [str(fixture.programs() / "kubectl"), f"--kubeconfig={crds}"]
    subprocess.run(
        [*kubectl, "apply", "-f", "-"],
        input=json.dumps(DEPLOYMENT),
        text=True,
        check=True,
        timeout=60,
        capture_output=True,
    )
    code, answer = apply(crds, with_spec(DEPLOYMENT, {"baseModel.uri": "hf://org/other"}))
    assert (code != 0, "create another AdapterDeployment and move the callers" in answer) == (True, True), answer


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"matchLabels": {"team.example.com/serve": "support"}},
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}, {"key": "c", "operator": "Exists"}]},
    ],
    ids=["everything", "a label", "expressions"],
)
def test_a_selector_as_kubernetes_has_it_is_accepted(crds: Path, selector: dict[str, Any]) -> None:
    code, answer = apply(crds, with_spec(DEPLOYMENT, {"storage": {}, "adapterSelector": selector}))
    assert code == 0, answer


@pytest.mark.parametrize("body", [FINETUNE, DEPLOYMENT], ids=["LoraFineTune", "AdapterDeployment"])
def test_the_shortest_object_is_accepted(crds: Path, body: dict[str, Any]) -> None:
    code, answer = apply(crds, body)
    assert code == 0, answer


def test_a_name_too_long_for_its_jobs_is_refused_with_the_limit(crds: Path) -> None:
    body = FINETUNE | {"metadata": {"name": "n" * 53, "namespace": "default"}}
    code, answer = apply(crds, body)
    assert (code != 0, "may not be more than 52 bytes" in answer) == (True, True), answer


@pytest.mark.parametrize("name", ["lft", "adep"])
def test_short_names_and_the_category_find_the_kinds(crds: Path, name: str) -> None:
    for words in (["get", name], ["get", "loraline"], ["explain", f"{name}.spec"]):
        result = subprocess.run(
            [str(fixture.programs() / "kubectl"), f"--kubeconfig={crds}", *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
