"""The Helm chart: what it renders, what it refuses, and the rights that it gives."""

from __future__ import annotations

import dataclasses
import json
import runpy

import pytest
import yaml

from loraline_api import crd
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_operator import observed_policy
from loraline_operator.actions import Kind, Ref
from loraline_operator.settings import Settings
from unit.chart import rendering

CALLED = {"get", "list", "watch", "create", "patch", "update", "delete", "deletecollection"}


def test_helm_lint_finds_nothing() -> None:
    done = rendering.run("lint", "--strict", str(rendering.CHART), *_images())
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_crds_of_the_chart_are_the_generated_ones() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in (rendering.CHART / "crds").iterdir()}
    assert there == crd.files()


def test_the_schema_of_the_policy_is_what_make_generate_writes() -> None:
    module = runpy.run_path(str(rendering.ROOT / "charts" / "generate_schema.py"))
    assert module["text"]() == (rendering.CHART / "values.schema.json").read_text(encoding="utf-8")


REFUSALS = {
    "no images at all": (["images.operator="], "tests/images/push.sh"),
    "a value that no template reads": (["imagess.operator=x"], "imagess"),
    "a log level that is none": (["logLevel=loud"], "logLevel"),
    "a resync of one second": (["resyncSeconds=1"], "resyncSeconds"),
    "a namespace in capitals": (["watchNamespaces={Team-A}"], "watchNamespaces"),
    "minus one replica": (["replicas=-1"], "replicas"),
    "a limit of the policy that is none": (["policy.limits.ranks=64"], "ranks"),
    "a rank that is no number": (["policy.limits.rank=many"], "rank"),
    "a card without its memory": (["policy.gpus.X1.bf16Tflops=100"], "memoryGiB"),
}


@pytest.mark.parametrize(("settings", "named"), REFUSALS.values(), ids=REFUSALS)
def test_wrong_values_are_refused_by_name(settings: list[str], named: str) -> None:
    options = [option for setting in settings for option in ("--set", setting)]
    done = rendering.run("template", "x", str(rendering.CHART), "--kube-version", "1.33.0", *_images(), *options)
    assert done.returncode != 0
    assert named in done.stderr


def test_every_value_is_described_or_checked_by_the_schema() -> None:
    values = yaml.safe_load((rendering.CHART / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((rendering.CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert set(values) == set(schema["properties"]) - {"global"}


def test_the_operator_meets_the_restricted_pod_security_standard() -> None:
    (deployment,) = rendering.of_kind(rendering.render(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {"configMap", "emptyDir"}


def test_the_operator_never_reads_secrets_and_no_rule_has_a_wildcard() -> None:
    rules = [rule for item in rendering.render() for rule in item.get("rules", ())]
    assert rules
    for rule in rules:
        assert "secrets" not in rule["resources"]
        assert set(rule["verbs"]) <= CALLED
        assert "*" not in rule["resources"] + rule["apiGroups"]


def test_with_named_namespaces_the_operator_has_rights_there_only() -> None:
    objects = rendering.render("watchNamespaces={team-a,team-b}", "aggregateRoles=false")
    assert not rendering.of_kind(objects, "ClusterRoleBinding")
    assert not rendering.of_kind(objects, "ClusterRole")
    places = {item["metadata"]["namespace"] for item in rendering.of_kind(objects, "RoleBinding")}
    assert places == {"team-a", "team-b", "loraline-system"}


def test_tenants_roles_extend_the_built_in_ones() -> None:
    roles = {item["metadata"]["name"]: item for item in rendering.of_kind(rendering.render(), "ClusterRole")}
    assert roles["loraline-edit"]["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    edited = {
        (resource, verb)
        for rule in roles["loraline-edit"]["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {(kind, verb) for kind in ("lorafinetunes", "adapterdeployments") for verb in ("create", "delete")} <= edited
    assert ("adapterdeployments/scale", "patch") in edited
    assert not [pair for pair in edited if pair[0].endswith("/status") and pair[1] != "get"]
    viewed = {resource for rule in roles["loraline-view"]["rules"] for resource in rule["resources"]}
    assert {"lorafinetunes", "adapterdeployments"} <= viewed
    view = {verb for rule in roles["loraline-view"]["rules"] for verb in rule["verbs"]}
    assert view == {"get", "list", "watch"}


def the_policy(*settings: str) -> Policy:
    """The policy that the chart renders, as the operator reads it."""
    (manifest,) = rendering.of_kind(rendering.render(*settings), "ConfigMap")
    ref = Ref(Kind.CONFIG_MAP, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    return observed_policy.policy(ref, manifest)


def test_the_policy_of_the_values_is_the_built_in_one() -> None:
    assert the_policy() == ALLOW_ALL


def test_values_change_the_policy_field_by_field() -> None:
    policy = the_policy(
        "policy.limits.activeDeadlineSeconds=2592000",
        "policy.gpus.H100.pricePerHour=4",
        "policy.gpus.T4=null",
        "policy.namespaces[0].names={team-a}",
        "policy.namespaces[0].limits.rank=32",
    )
    assert policy.limits.active_deadline_seconds == 2592000
    assert policy.gpus["H100"] == ALLOW_ALL.gpus["H100"].model_copy(update={"price_per_hour": 4})
    assert set(ALLOW_ALL.gpus) - set(policy.gpus) == {"T4"}
    assert policy.of("team-a").limits.rank == 32


def test_the_operator_is_told_the_name_of_the_policy_and_may_read_and_watch_it_alone() -> None:
    objects = rendering.render("watchNamespaces={team-a}")
    (manifest,) = rendering.of_kind(objects, "ConfigMap")
    (role,) = [item for item in rendering.of_kind(objects, "Role") if item["metadata"]["name"].endswith("-policy")]
    maps = [rule for rule in role["rules"] if rule["resources"] == ["configmaps"]]
    assert maps == [
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": [manifest["metadata"]["name"]],
            "verbs": ["get", "watch"],
        }
    ]
    assert manifest["metadata"]["namespace"] == role["metadata"]["namespace"] == "loraline-system"
    (deployment,) = rendering.of_kind(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {item["name"]: item.get("value") for item in container["env"]}
    assert given["LORALINE_POLICY"] == manifest["metadata"]["name"]


def test_every_variable_is_an_option_of_the_operator() -> None:
    (deployment,) = rendering.of_kind(rendering.render("server.cpuEnv.VLLM_TARGET=cpu"), "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    given = {item["name"]: item.get("value") for item in container["env"]}
    options = {f"LORALINE_{field.name.upper()}" for field in dataclasses.fields(Settings)} | {"LORALINE_LOG_LEVEL"}
    assert set(given) <= options
    assert json.loads(str(given["LORALINE_SERVER_CPU_ENV"])) == {"VLLM_TARGET": "cpu"}


def test_extras_are_off_unless_asked_for() -> None:
    extras = {"ServiceMonitor", "NetworkPolicy", "PodDisruptionBudget"}
    assert not extras & {item["kind"] for item in rendering.render()}
    asked = rendering.render("metrics.serviceMonitor.enabled=true", "networkPolicy.enabled=true", "replicas=2")
    assert extras <= {item["kind"] for item in asked}


def _images() -> list[str]:
    return [option for image in rendering.IMAGES for option in ("--set", image)]
