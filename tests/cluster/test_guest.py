"""`make demo CONTEXT=...` on a cluster of the user's: what it asks first, what it says, and that it leaves nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import fixture
from demo import ground, guest, store
from demo.kubectl import Kubectl, Object

CONTEXT = "loraline"
KINDS = "customresourcedefinitions,clusterroles,clusterrolebindings,persistentvolumes,namespaces"


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's kubeconfig: a cluster's administrator, a tenant of it, and a cluster that is down."""
    with fixture.control_plane(tmp_path_factory.mktemp("users-cluster")) as path:
        admin = Kubectl(fixture.programs() / "kubectl", "default", kubeconfig=path)
        admin.run("create", "serviceaccount", "tenant")
        admin.run("create", "rolebinding", "tenant", "--clusterrole=edit", "--serviceaccount=default:tenant")
        admin.run("config", "set-credentials", "tenant", f"--token={admin.run('create', 'token', 'tenant').strip()}")
        admin.run("config", "set-context", "tenant", "--cluster=loraline", "--user=tenant")
        admin.run("config", "set-cluster", "down", f"--server=https://127.0.0.1:{fixture.free_port()}")
        admin.run("config", "set-context", "down", "--cluster=down", "--user=tenant")
        yield path


@pytest.fixture
def kubectl(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    """The user's kubectl as the administrator."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return ground.users_kubectl(CONTEXT)


def refusal(context: str) -> str:
    """What the demo says before it builds anything."""
    with pytest.raises(ground.GroundError) as error:
        guest.arrive(context)
    return str(error.value)


def test_a_context_that_is_not_there_is_answered_with_those_that_are(kubectl: Kubectl) -> None:
    assert refusal("nope") == "your kubeconfig has no context nope; it has: down, loraline, tenant"


def test_without_a_kubeconfig_its_place_is_named(kubectl: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    assert refusal("nope").endswith("it has none: KUBECONFIG names the file, by default ~/.kube/config")


def test_a_cluster_that_is_down_is_named_with_kubectls_own_words(kubectl: Kubectl) -> None:
    said = refusal("down")
    assert said.startswith("the cluster of context down does not let us in: ")
    assert "connection refused" in said or "connection to the server" in said


def test_a_tenant_is_told_what_an_administrator_may_do(kubectl: Kubectl) -> None:
    said = refusal("tenant")
    assert said.startswith("context tenant may not create namespaces, customresourcedefinitions.apiextensions.k8s.io, ")
    assert said.endswith("which takes the rights of a cluster administrator; use the context of one")


def test_a_loraline_of_somebody_else_is_left_alone(kubectl: Kubectl) -> None:
    for crd in store.crds():
        crd["metadata"].pop("labels")
        kubectl.apply(crd)
    try:
        assert "installed on the cluster of context loraline already, and not by the demo" in refusal(CONTEXT)
        guest.leave(CONTEXT)
        assert kubectl.get("customresourcedefinition", "lorafinetunes.loraline.dev") is not None
    finally:
        kubectl.run("delete", "customresourcedefinition", *guest.crd_names())


def test_a_namespace_of_somebody_else_is_left_alone(kubectl: Kubectl) -> None:
    kubectl.run("create", "namespace", ground.NAMESPACE)
    try:
        assert refusal(CONTEXT).startswith("the namespace loraline-demo is not the demo's: it lacks the label")
    finally:
        kubectl.run("delete", "namespace", ground.NAMESPACE)


def test_the_nodes_say_whether_there_are_gpus_and_for_what_the_images_must_be(kubectl: Kubectl) -> None:
    kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "arm"}})
    try:
        report(kubectl, {"nodeInfo": {"architecture": "riscv64"}})
        assert refusal(CONTEXT).startswith("the nodes are riscv64, and this machine builds images for ")
        report(kubectl, {"nodeInfo": {"architecture": "amd64"}})
        assert guest.gpus(guest.arrive(CONTEXT)) == 0
        report(kubectl, {"capacity": {guest.GPU: "4"}, "allocatable": {guest.GPU: "4"}})
        assert guest.gpus(kubectl) == 1
    finally:
        kubectl.run("delete", "node", "arm")


def report(kubectl: Kubectl, status: Object) -> None:
    """Writes the status of the node, as its kubelet would."""
    kubectl.run("patch", "node", "arm", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def everything(kubectl: Kubectl) -> set[str]:
    """Names of all objects that belong to no namespace and may come with an installation."""
    return set(kubectl.run("get", KINDS, "-o", "name").split())


def test_the_demo_leaves_a_cluster_as_it_was(kubectl: Kubectl) -> None:
    before = everything(kubectl)
    install(kubectl)
    there = everything(kubectl)
    assert {"namespace/loraline-system", "clusterrole.rbac.authorization.k8s.io/loraline-edit"} <= there - before
    guest.leave(CONTEXT)
    assert everything(kubectl) == before
    guest.leave(CONTEXT)  # once more does no harm


def test_what_others_made_of_our_kinds_keeps_the_demo_from_leaving(kubectl: Kubectl) -> None:
    install(kubectl)
    manifest = {
        "apiVersion": "loraline.dev/v1alpha1",
        "kind": "LoraFineTune",
        "metadata": {"name": "theirs"},
        "spec": {
            "baseModel": {"uri": "hf://a/b"},
            "dataset": {"train": {"uri": "configmap://a/b"}},
            "output": {"uri": "s3://a/b"},
        },
    }
    theirs = dataclasses.replace(kubectl, namespace="default")
    theirs.apply(manifest)
    there = everything(kubectl)
    with pytest.raises(ground.GroundError) as error:
        guest.leave(CONTEXT)
    assert str(error.value).startswith("default/theirs would be deleted with the CRDs")
    assert everything(kubectl) == there
    theirs.run("delete", "lorafinetune", "theirs")
    guest.leave(CONTEXT)


def install(kubectl: Kubectl) -> None:
    """What the demo puts on a cluster, as far as it goes without a node."""
    kubectl.apply(*store.crds(), store.namespace(), store.namespace(ground.SYSTEM))
    images = ["--set", "images.operator=x/operator:1", "--set", "images.trainer=x/trainer:1"]
    chart = ["install", "loraline", str(ground.CHART), "--namespace", ground.SYSTEM, "--skip-crds", *images]
    ground.run([str(ground.helm()), "--kube-context", CONTEXT, *chart])
