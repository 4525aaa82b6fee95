"""The demo as a guest on a cluster of the user's: what is asked before anything is built, and how it leaves.

Each check returns a sentence about what is wrong, or None. What the demo makes outside of its namespace carries the
label loraline.dev/demo=true, and only what carries it is removed. The demo needs no StorageClass: its S3 keeps what it
holds in its pod.
"""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from collections.abc import Callable

from demo import ground, store, view
from demo.kubectl import Kubectl, KubectlError, Object

GPU = "nvidia.com/gpu"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Machine names of Linux, and Kubernetes' names for them."""

RIGHTS = {
    "namespaces": "",
    "customresourcedefinitions.apiextensions.k8s.io": "",
    "clusterroles.rbac.authorization.k8s.io": "",
    "clusterrolebindings.rbac.authorization.k8s.io": "",
    "deployments.apps": ground.SYSTEM,
    "secrets": ground.NAMESPACE,
    "pods": ground.NAMESPACE,
    "pods/exec": ground.NAMESPACE,
}
"""What the demo creates, and in which namespace."""


Check = Callable[[Kubectl], str | None]


def arrive(context: str) -> Kubectl:
    """kubectl for a cluster on which the demo can play.

    Raises:
        GroundError: it cannot; said before minutes are spent on images, with what mends it.
    """
    kubectl = ground.users_kubectl(context)
    judge(kubectl, unknown_context, silent_cluster, missing_rights, foreign_installation, foreign_namespace)
    judge(kubectl, other_architecture)
    return kubectl


def judge(kubectl: Kubectl, *checks: Check) -> None:
    """Raises the first sentence that a check returns."""
    for check in checks:
        sentence = check(kubectl)
        if sentence:
            raise ground.GroundError(sentence)


def unknown_context(kubectl: Kubectl) -> str | None:
    """The kubeconfig has no context of that name."""
    known = dataclasses.replace(kubectl, context=None).run("config", "get-contexts", "-o", "name").split()
    if kubectl.context in known:
        return None
    has = (
        f"it has: {', '.join(known)}" if known else "it has none: KUBECONFIG names the file, by default ~/.kube/config"
    )
    return f"your kubeconfig has no context {kubectl.context}; {has}"


def silent_cluster(kubectl: Kubectl) -> str | None:
    """The API server is not reached, or it does not know the user."""
    try:
        kubectl.run("get", "--raw=/version", "--request-timeout=15s")
    except KubectlError as error:
        return f"the cluster of context {kubectl.context} does not let us in: {str(error).splitlines()[-1]}"
    return None


def missing_rights(kubectl: Kubectl) -> str | None:
    """The user may not create what the demo needs."""
    denied = [
        f"{resource} in {namespace}" if namespace else resource
        for resource, namespace in RIGHTS.items()
        if not may_create(kubectl, resource, namespace)
    ]
    if not denied:
        return None
    return (
        f"context {kubectl.context} may not create {', '.join(denied)}: the demo installs an operator, which takes the "
        "rights of a cluster administrator; use the context of one"
    )


def may_create(kubectl: Kubectl, resource: str, namespace: str) -> bool:
    """Whether the API server says yes."""
    asking = dataclasses.replace(kubectl, namespace=namespace or "default")
    try:
        return asking.run("auth", "can-i", "create", resource).split()[-1:] == ["yes"]
    except KubectlError:  # kubectl says no with an exit code
        return False


def foreign_installation(kubectl: Kubectl) -> str | None:
    """Loraline is there, and somebody else put it there."""
    for name in crd_names():
        found = kubectl.get("customresourcedefinition", name)
        if found is not None and not is_ours(found):
            return (
                f"Loraline is installed on the cluster of context {kubectl.context} already, and not by the demo (its "
                f"CRD {name} lacks the label {store.LABEL}=true), which would replace its operator: take another "
                "cluster, or remove it if nobody needs it: helm uninstall loraline --namespace loraline-system; "
                f"kubectl delete crd {' '.join(crd_names())}"
            )
    return None


def foreign_namespace(kubectl: Kubectl) -> str | None:
    """A namespace of the demo's name is somebody else's."""
    found = kubectl.get("namespace", ground.NAMESPACE)
    return None if found is None or is_ours(found) else store.not_ours(ground.NAMESPACE)


def other_architecture(kubectl: Kubectl) -> str | None:
    """No node runs programs of this machine's kind, and images are built for that."""
    nodes = Counter(node["status"]["nodeInfo"]["architecture"] for node in kubectl.items("nodes"))
    here = ARCHITECTURES.get(platform.machine(), platform.machine())
    if not nodes or here in nodes:
        return None
    there = ", ".join(sorted(nodes))
    return f"the nodes are {there}, and this machine builds images for {here}: run the demo on a machine of their kind"


def gpus(kubectl: Kubectl) -> int:
    """GPUs for each pod: 1 where a node offers any, else 0."""
    has_gpu = any(node["status"].get("allocatable", {}).get(GPU, "0") != "0" for node in kubectl.items("nodes"))
    view.say(
        f"A node offers {GPU}: training and serving on a GPU"
        if has_gpu
        else f"No node offers {GPU}: training and serving on CPUs"
    )
    return int(has_gpu)


def leave(context: str) -> None:
    """Removes all that the demo made on the cluster; images stay in the registry.

    Raises:
        GroundError: the cluster is not reached, or others' objects need what would go; nothing is removed.
    """
    kubectl = ground.users_kubectl(context)
    judge(kubectl, unknown_context, silent_cluster)
    tenants = others(kubectl)
    if tenants:
        raise ground.GroundError(
            f"{', '.join(tenants)} would be deleted with the CRDs: delete what nobody needs first; nothing was removed"
        )
    store.forget_namespace(kubectl)
    system = kubectl.get("namespace", ground.SYSTEM)
    if system is not None and is_ours(system):
        uninstall = ["uninstall", "loraline", "--namespace", ground.SYSTEM, "--ignore-not-found", "--wait"]
        ground.run([str(ground.helm()), "--kube-context", str(kubectl.context), *uninstall])
        kubectl.run("delete", "namespace", ground.SYSTEM, "--timeout=180s")
    for name in crd_names():
        found = kubectl.get("customresourcedefinition", name)
        if found is not None and is_ours(found):
            kubectl.run("delete", "customresourcedefinition", name, "--timeout=120s")
    view.say("The demo left the cluster; its images stay in the registry")


def others(kubectl: Kubectl) -> list[str]:
    """Objects of our kinds outside of the demo's namespace, as namespace/name."""
    present = [name for name in crd_names() if kubectl.get("customresourcedefinition", name) is not None]
    found = [item["metadata"] for kind in present for item in kubectl.items_everywhere(kind)]
    return [f"{meta['namespace']}/{meta['name']}" for meta in found if meta["namespace"] != ground.NAMESPACE]


def crd_names() -> list[str]:
    """Names of our CRDs, as the chart has them."""
    return [crd["metadata"]["name"] for crd in store.crds()]


def is_ours(item: Object) -> bool:
    """Whether the demo made it."""
    return bool(item["metadata"].get("labels", {}).get(store.LABEL) == "true")
