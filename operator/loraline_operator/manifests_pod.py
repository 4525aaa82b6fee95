"""What training and serving pods have in common: security, placement and resources, from `spec.compute`.

Both meet the `restricted` Pod Security Standard. What is in them is said in `manifests_training` and
`manifests_serving`.
"""

from __future__ import annotations

from collections.abc import Mapping

from loraline_api import pods
from loraline_api.compute import Compute
from loraline_operator.actions import Manifest

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Security context of every container."""

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": pods.USER_ID,
    "runAsGroup": pods.USER_ID,
    "fsGroup": pods.USER_ID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


def common(compute: Compute) -> Manifest:
    """The part of a pod's spec that does not depend on what runs in it."""
    selector = dict(compute.node_selector)
    if compute.gpu_type is not None:
        selector["nvidia.com/gpu.product"] = compute.gpu_type
    optional = {
        "nodeSelector": selector,
        "tolerations": [toleration.dump() for toleration in compute.tolerations],
        "affinity": compute.affinity,
        "priorityClassName": compute.priority_class_name,
        "runtimeClassName": compute.runtime_class_name,
        "serviceAccountName": compute.service_account_name,
    }
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        **{key: value for key, value in optional.items() if value},
    }


def environment(values: Mapping[str, str]) -> list[Manifest]:
    """Environment variables of a container."""
    return [{"name": name, "value": value} for name, value in values.items()]


def resources(compute: Compute) -> Manifest:
    """Requests; memory, disk and GPUs are limits too, CPU has none."""
    requests = compute.requests.dump()
    limits = {name: value for name, value in requests.items() if name != "cpu"}
    if compute.gpus:
        limits["nvidia.com/gpu"] = str(compute.gpus)
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}
