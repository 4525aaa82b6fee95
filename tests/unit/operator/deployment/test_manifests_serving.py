"""The whole manifests of the children, compared with files; `LORALINE_GOLDEN=write` writes the files anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from loraline_api import leaving
from loraline_api.routing import Route, RouteVersion, RoutingTable
from loraline_api.storage import S3Access, SecretRef
from loraline_operator import manifests_engine, manifests_preflight, manifests_serving, observed
from loraline_operator.actions import Manifest
from unit.operator.builders import SETTINGS
from unit.operator.deployment.serving_world import FIRST, World, uri

GOLDEN = Path(__file__).parents[3] / "golden"
STORAGE = S3Access(endpoint="http://s3.example:9000", secret_ref=SecretRef(name="adapter-storage"))

GPU = World(
    replicas=2,
    baseModel={"uri": "hf://org/model", "revision": "main", "secretRef": {"name": "hub"}},
    server={"maxLoras": 2, "maxLoraRank": 16, "maxModelLen": 1024, "extraArgs": ["--gpu-memory-utilization=0.8"]},
    compute={"gpuType": "NVIDIA-H100-80GB-HBM3", "requests": {"cpu": "4", "memory": "64Gi"}},
)
CPU = World(baseModel={"uri": "pvc://models/llama"}, server={"dtype": "float32"}, compute={"gpus": 0})


def compare(name: str, manifest: Manifest) -> None:
    plain = json.loads(json.dumps(manifest))  # equal parts are written out, not referred to
    text = yaml.safe_dump(plain, sort_keys=False, width=120)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("LORALINE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "world"), [("deployment-gpu", GPU), ("deployment-cpu", CPU)])
def test_the_deployment_is_the_one_in_the_file(name: str, world: World) -> None:
    object = world.object
    assert object.spec is not None
    compare(name, manifests_serving.deployment(object.meta, object.spec, STORAGE, SETTINGS))


def test_the_check_of_an_adapter_is_the_one_in_the_file() -> None:
    object = GPU.object
    assert object.spec is not None
    version = RouteVersion(version=FIRST, uri=uri(FIRST))
    job = manifests_preflight.job(
        object.meta, object.spec, version, base_digest="d" * 64, storage=STORAGE, settings=SETTINGS
    )
    compare("check", job)


@pytest.mark.parametrize("world", [GPU, CPU], ids=["gpu", "cpu"])
def test_a_pod_has_the_time_to_leave_without_losing_a_request(world: World) -> None:
    object = world.object
    assert object.spec is not None
    spec = manifests_serving.deployment(object.meta, object.spec, STORAGE, SETTINGS)["spec"]
    pod = spec["template"]["spec"]
    (engine,) = pod["containers"]
    switchboard = pod["initContainers"][-1]
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert engine["lifecycle"]["preStop"]["httpGet"]["path"] == "/drain"
    assert switchboard["restartPolicy"] == "Always"  # a sidecar: it ends after vLLM
    assert pod["terminationGracePeriodSeconds"] >= leaving.DRAIN_LIMIT_S + leaving.ENGINE_STOP_S
    assert leaving.DRAIN_QUIET_S < leaving.DRAIN_LIMIT_S
    assert spec["progressDeadlineSeconds"] > manifests_engine.STARTUP_LIMIT_S
    probe = engine["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == manifests_engine.STARTUP_LIMIT_S


def test_the_service_is_the_one_in_the_file() -> None:
    compare("service", manifests_serving.service(GPU.object.meta))


def test_the_routing_table_is_the_one_in_the_file() -> None:
    version = RouteVersion(version=FIRST, uri=uri(FIRST))
    table = RoutingTable(max_lora_rank=16, routes=[Route(name="tickets", serving=FIRST, versions=[version])])
    compare("routes", manifests_serving.routes(observed.meta(GPU.manifest), table))
