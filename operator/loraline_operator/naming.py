"""Names of children, and the labels and annotations by which everything of ours is found.

Names are deterministic: the same run and attempt have the same Job, so a crash between two writes cannot make a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from loraline_api import GROUP
from loraline_operator.actions import Manifest

MANAGER = "loraline"
"""Field manager, user agent, and value of app.kubernetes.io/managed-by."""

FINALIZER = f"{GROUP}/cleanup"
FINETUNE_LABEL = f"{GROUP}/finetune"
RUN_LABEL = f"{GROUP}/run"
ATTEMPT_LABEL = f"{GROUP}/attempt"
SETTINGS_LABEL = f"{GROUP}/settings"
DEPLOYMENT_LABEL = f"{GROUP}/deployment"
CHECK_LABEL = f"{GROUP}/preflight"
"""Name of the AdapterDeployment for which a Job checks an adapter; its pods serve nothing."""

DATASET_LABEL = f"{GROUP}/dataset"
OWNER_LABELS = {
    FINETUNE_LABEL: "LoraFineTune",
    DEPLOYMENT_LABEL: "AdapterDeployment",
    CHECK_LABEL: "AdapterDeployment",
}
"""The labels by which a child names its object, and that object's kind."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
OURS = f"{MANAGED_BY_LABEL}={MANAGER}"
"""Selects what this operator has made."""

RESTART_ANNOTATION = f"{GROUP}/restart"
TABLE_ANNOTATION = f"{GROUP}/table"
BASE_ANNOTATION = f"{GROUP}/base"
"""Digest of the base model that a ConfigMap describes."""

HASH_ANNOTATION = f"{GROUP}/hash"
"""Hash of a child's manifest as it was written last; another hash is a child to patch."""

COMPONENT_LABEL = "app.kubernetes.io/component"
TRAINING, CLEANUP = "training", "cleanup"
"""Components of a fine-tune: the pods of its attempts, and the pod that deletes what they published."""

KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PASSED_LABELS = (KUEUE_QUEUE_LABEL, "kueue.x-k8s.io/priority-class", "kueue.x-k8s.io/max-exec-time-seconds")
"""Labels that a Job takes over from its fine-tune, so that Kueue queues it."""

MAX_LABEL_CHARS = 63
"""Longest name of a Job, as it becomes a label of its pods (Kubernetes: RFC 1123 label)."""

NODE_NUMBER_CHARS = 3
"""Room for -0 to -63, by which an Indexed Job tells the hostnames of its pods apart."""


def passed_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Those labels of a fine-tune that its Jobs take over."""
    return {key: labels[key] for key in PASSED_LABELS if key in labels}


def job_name(finetune: str, run_id: str, attempt: int) -> str:
    """Name of the Job of an attempt; with the number of a node at its end it still is a hostname."""
    return _with_suffix(finetune, f"-{run_id}-{attempt}", MAX_LABEL_CHARS - NODE_NUMBER_CHARS)


def nodes_service_name(finetune: str, run_id: str) -> str:
    """Name of the headless Service of a run of several nodes; it begins with a letter, as a Service's has to."""
    return _with_suffix(f"nodes-{finetune}", f"-{run_id}")


def cleanup_job_name(finetune: str, uid: str) -> str:
    """Name of the Job that deletes what a fine-tune published; one made again under its name has another."""
    return _with_suffix(finetune, f"-delete-{uid[:8]}")


def snapshot_name(finetune: str, run_id: str) -> str:
    """Name of the ConfigMap with a run's inputs."""
    return _with_suffix(finetune, f"-{run_id}")


def routes_name(deployment: str) -> str:
    """Name of the ConfigMap with the routing table of an AdapterDeployment."""
    return f"{deployment}-routes"


def base_name(deployment: str) -> str:
    """Name of the ConfigMap that describes the base model of an AdapterDeployment."""
    return f"{deployment}-base"


def check_name(deployment: str, *inputs: str) -> str:
    """Name of the Job that checks an adapter: the same inputs are the same check."""
    digest = hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:10]
    return _with_suffix(deployment, f"-check-{digest}")


def common_labels(component: str) -> dict[str, str]:
    """Labels of every child; never app.kubernetes.io/instance, by which Argo CD would claim it."""
    return {
        "app.kubernetes.io/name": "loraline",
        COMPONENT_LABEL: component,
        "app.kubernetes.io/part-of": "loraline",
        MANAGED_BY_LABEL: MANAGER,
    }


def owner_reference(kind: str, api_version: str, name: str, uid: str) -> Manifest:
    """The reference by which a child belongs to its object and goes with it."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _with_suffix(name: str, suffix: str, longest: int = MAX_LABEL_CHARS) -> str:
    """The name and the suffix as one DNS label.

    A name that is too long is cut, one with dots (the hostname of a pod has none) loses them, and the hash of the whole
    name keeps either apart from others.
    """
    room = longest - len(suffix)
    if len(name) > room or "." in name:
        digest = hashlib.sha256(name.encode()).hexdigest()[:6]
        name = f"{name[: room - 7].replace('.', '-').rstrip('-')}-{digest}"
    return name + suffix
