"""The whole manifests of a run's children, compared with files; `LORALINE_GOLDEN=write` writes the files anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from loraline_api import run
from loraline_api.compute import MAX_NODES
from loraline_operator import manifests_cleanup, manifests_gang, manifests_training, naming
from loraline_operator.actions import Manifest
from loraline_operator.manifests_cleanup import RunToDelete
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


NODES = CPU.with_spec("compute.nodes", 2)
FOUR_GPUS = GPU.with_spec("compute.gpus", 4)


@pytest.mark.parametrize(("name", "builder"), [("job-gpu", GPU), ("job-cpu", CPU), ("job-nodes", NODES)])
def test_the_job_of_an_attempt_is_the_one_in_the_file(name: str, builder: FineTuneBuilder) -> None:
    object = builder.object()
    assert object.spec is not None
    manifest = manifests_training.job(
        object.meta, object.spec, run_id="1a2b3c4d5e", attempt=2, settings_hash="aaaaaaaaaa", settings=SETTINGS
    )
    compare(name, manifest)


def test_the_service_of_several_nodes_is_the_one_in_the_file() -> None:
    compare("service-nodes", manifests_gang.service(NODES.object().meta, "1a2b3c4d5e"))


def test_the_job_that_deletes_the_output_is_the_one_in_the_file() -> None:
    object = GPU.with_spec("output.endpoint", "http://s3.example:9000").object()
    assert object.spec is not None
    runs = (RunToDelete("1a2b3c4d5e", "4c47e0cfb45a"), RunToDelete("aaaaaaaaaa"))
    compare("job-delete", manifests_cleanup.job(object.meta, object.spec, runs, SETTINGS))


def together(builder: FineTuneBuilder) -> dict[str, str]:
    """torchrun's environment in the container of a Job."""
    object = builder.object()
    assert object.spec is not None
    variables = manifests_gang.environment(object.meta, object.spec.compute, "1a2b3c4d5e", 1)
    return {item["name"]: item.get("value", "from the pod's annotation") for item in variables}


@pytest.mark.parametrize(
    ("builder", "nodes", "processes", "master"),
    [
        pytest.param(FOUR_GPUS, "1", "4", "127.0.0.1", id="four GPUs of one node"),
        pytest.param(NODES, "2", "1", "tickets-1a2b3c4d5e-1-0.nodes-tickets-1a2b3c4d5e", id="two nodes of CPUs"),
        pytest.param(
            FOUR_GPUS.with_spec("compute.nodes", 2),
            "2",
            "4",
            "tickets-1a2b3c4d5e-1-0.nodes-tickets-1a2b3c4d5e",
            id="two nodes of four GPUs",
        ),
    ],
)
def test_torchrun_is_told_nodes_processes_and_where_they_meet(
    builder: FineTuneBuilder, nodes: str, processes: str, master: str
) -> None:
    environment = together(builder)
    assert (environment["PET_NNODES"], environment["PET_NPROC_PER_NODE"]) == (nodes, processes)
    assert (environment["PET_MASTER_ADDR"], environment["PET_MASTER_PORT"]) == (master, "29500")


@pytest.mark.parametrize("builder", [pytest.param(GPU, id="one GPU"), pytest.param(CPU, id="no GPU")])
def test_one_process_gets_no_environment_of_torchrun(builder: FineTuneBuilder) -> None:
    assert together(builder) == {}


def test_the_hostname_of_the_last_of_many_nodes_and_the_name_of_its_service_fit_into_labels() -> None:
    host = f"{naming.job_name('n' * 52, '1a2b3c4d5e', 1)}-{MAX_NODES - 1}"
    service = naming.nodes_service_name("0" * 52, "1a2b3c4d5e")
    assert (len(host) <= 63, len(service) <= 63, service[0].isalpha()) == (True, True, True), (host, service)


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
        pytest.param("n" * 52, "n{40}-[0-9a-f]{6}-1a2b3c4d5e-1", id="a long name is cut and gets a hash"),
        pytest.param("a.b", "a-b-[0-9a-f]{6}-1a2b3c4d5e-1", id="dots go, as hostnames have none"),
    ],
)
def test_names_of_jobs_fit_into_labels(finetune: str, pattern: str) -> None:
    name = naming.job_name(finetune, "1a2b3c4d5e", 1)
    assert (re.fullmatch(pattern, name) is not None, len(name) <= 63) == (True, True), name


def test_two_long_names_with_one_beginning_have_two_jobs() -> None:
    first, second = (naming.job_name("n" * 51 + end, "1a2b3c4d5e", 1) for end in "ab")
    assert first != second
