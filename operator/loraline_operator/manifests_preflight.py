"""The children by which adapters are checked off the serving pods: a Job for each, and the ConfigMap that describes the
base model.

Pure: the same inputs give the same manifests and the same names.
"""

from __future__ import annotations

from collections.abc import Mapping

from loraline_api import API_VERSION, pods
from loraline_api.compute import Compute
from loraline_api.deployment import AdapterDeploymentSpec
from loraline_api.preflight import CARD_KEY
from loraline_api.routing import RouteVersion
from loraline_api.storage import S3Access
from loraline_operator import manifests_pod, manifests_serving, naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta
from loraline_operator.settings import Settings

COMPONENT = "preflight"
DEADLINE_S = 1800
"""A large adapter (1 GB) takes a minute; a pod that is never scheduled is given up, told, and made again."""

KEPT_S = 3600
"""The operator removes a check as soon as nobody needs its verdict; this is for operators that are gone."""


def job_name(meta: Meta, spec: AdapterDeploymentSpec, version: RouteVersion, base_digest: str) -> str:
    """Name of the Job, made from all that its verdict depends on."""
    rank = str(spec.server.max_lora_rank)
    return naming.check_name(meta.name, version.version, version.uri, base_digest, rank)


def base(meta: Meta, digest: str, card: str) -> Manifest:
    """The ConfigMap that describes the base model."""
    metadata = _metadata(meta, naming.base_name(meta.name))
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata | {"annotations": {naming.BASE_ANNOTATION: digest}},
        "binaryData": {CARD_KEY: card},
    }


def job(
    meta: Meta,
    spec: AdapterDeploymentSpec,
    version: RouteVersion,
    *,
    base_digest: str,
    storage: S3Access,
    settings: Settings,
) -> Manifest:
    """The Job. Its pod reads S3 as the serving pods do, and needs neither their nodes nor their GPUs."""
    options = {
        "--version": version.version,
        "--uri": version.uri,
        "--base": str(pods.BASE_DIR / CARD_KEY),
        "--base-digest": base_digest,
        "--max-lora-rank": str(spec.server.max_lora_rank),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(meta, job_name(meta, spec, version, base_digest)),
        "spec": {
            "backoffLimit": 1,
            "activeDeadlineSeconds": DEADLINE_S,
            "ttlSecondsAfterFinished": KEPT_S,
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {
                "metadata": {"labels": _labels(meta)},
                "spec": _pod_spec(meta, spec, options, storage, settings),
            },
        },
    }


def _pod_spec(
    meta: Meta, spec: AdapterDeploymentSpec, options: Mapping[str, str], storage: S3Access, settings: Settings
) -> Manifest:
    compute = Compute(
        gpus=0,
        tolerations=spec.compute.tolerations,
        priority_class_name=spec.compute.priority_class_name,
        service_account_name=spec.compute.service_account_name,
    )
    volumes: list[Manifest] = [
        {"name": "base", "configMap": {"name": naming.base_name(meta.name)}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[Manifest] = [
        {"name": "base", "mountPath": str(pods.BASE_DIR), "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if storage.secret_ref is not None:
        secret = {"secretName": storage.secret_ref.name, "defaultMode": 0o440}
        volumes.append({"name": "secret-storage", "secret": secret})
        mounts.append({"name": "secret-storage", "mountPath": str(pods.SECRETS_DIR / "storage"), "readOnly": True})
    container = manifests_serving.own_container("preflight", settings) | {
        "args": [
            "preflight",
            *(text for pair in options.items() for text in pair),
            *manifests_serving.storage_arguments(storage),
        ],
        "volumeMounts": mounts,
    }
    return {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": volumes,
        **manifests_pod.common(compute),
    }


def _labels(meta: Meta) -> dict[str, str]:
    """Not the label of serving pods, by which the Service would send requests here."""
    return naming.common_labels(COMPONENT) | {naming.CHECK_LABEL: meta.name}


def _metadata(meta: Meta, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": meta.namespace,
        "labels": _labels(meta),
        "ownerReferences": [naming.owner_reference("AdapterDeployment", API_VERSION, meta.name, meta.uid)],
    }
