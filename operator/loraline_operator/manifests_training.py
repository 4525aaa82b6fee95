"""The children of a fine-tune as Kubernetes objects: the snapshot ConfigMap of a run and the Job of an attempt.

Pure: the same run, attempt and settings give the same manifests.
"""

from __future__ import annotations

from collections.abc import Mapping

from loraline_api import pods
from loraline_api.finetune import LoraFineTuneSpec, MemoryProfile
from loraline_api.outcome import PERMANENT_EXIT_CODES
from loraline_api.progress import PROGRESS_PORT
from loraline_api.run import DATA_KEYS, RUN_KEY, Run
from loraline_api.storage import Scheme, SecretRef, parse_uri
from loraline_operator import manifests_child, manifests_gang, manifests_pod, naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta
from loraline_operator.observed_finetune import Data
from loraline_operator.settings import Settings

CONTAINER = "trainer"
GRACE_PERIOD_S = 120
"""Time from SIGTERM to SIGKILL: enough for the trainer to save a checkpoint; it waits 90 s for its storage."""


def snapshot(meta: Meta, run: Run, data: Mapping[str, Data]) -> Manifest:
    """The immutable ConfigMap with a run's inputs and its configmap:// data."""
    texts = {DATA_KEYS[part]: item.content for part, item in data.items() if not item.is_binary}
    binaries = {DATA_KEYS[part]: item.content for part, item in data.items() if item.is_binary}
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": manifests_child.metadata(
            meta, naming.snapshot_name(meta.name, run.id), manifests_child.run_labels(meta, run.id, "snapshot")
        ),
        "immutable": True,
        "data": {RUN_KEY: run.model_dump_json(by_alias=True, exclude_none=True), **texts},
    }
    if binaries:
        manifest["binaryData"] = binaries
    return manifest


def job(
    meta: Meta, spec: LoraFineTuneSpec, *, run_id: str, attempt: int, settings_hash: str, settings: Settings
) -> Manifest:
    """The Job of an attempt: a pod a node, no retry of its own; a disruption counts as nothing."""
    nodes = spec.compute.nodes
    labels = manifests_child.run_labels(meta, run_id, naming.TRAINING) | {
        naming.ATTEMPT_LABEL: str(attempt),
        naming.SETTINGS_LABEL: settings_hash,
    }
    passed = naming.passed_labels(meta.labels)
    disruption = {"type": "DisruptionTarget", "status": "True"}
    job_spec: Manifest = {
        "backoffLimit": 0,
        **manifests_gang.job_part(nodes),
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": manifests_gang.disruption_action(nodes), "onPodConditions": [disruption]},
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        "values": sorted(int(code) for code in PERMANENT_EXIT_CODES),
                    },
                },
            ]
        },
        "template": {"metadata": {"labels": labels}, "spec": _pod_spec(meta, spec, run_id, attempt, settings)},
    }
    if spec.active_deadline_seconds is not None:
        job_spec["activeDeadlineSeconds"] = spec.active_deadline_seconds
    if naming.KUEUE_QUEUE_LABEL in passed:
        job_spec["suspend"] = True  # Kueue starts it, and owns the field from here on
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": manifests_child.metadata(meta, naming.job_name(meta.name, run_id, attempt), labels | passed),
        "spec": job_spec,
    }


def _pod_spec(meta: Meta, spec: LoraFineTuneSpec, run_id: str, attempt: int, settings: Settings) -> Manifest:
    """The pod of an attempt."""
    volumes, mounts = _volumes(meta, spec, run_id)
    together = manifests_gang.environment(meta, spec.compute, run_id, attempt)
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_PERIOD_S,
        # Linux keeps signals that are not handled from the first process of a namespace: told to stop while it imported
        # PyTorch, a trainer that was first trained on for the whole grace period.
        "shareProcessNamespace": True,
        "containers": [_container(spec, attempt, mounts, together, settings)],
        "volumes": volumes,
        **manifests_gang.pod_part(meta, run_id, spec.compute.nodes),
        **manifests_pod.common(spec.compute),
    }


def _container(
    spec: LoraFineTuneSpec, attempt: int, mounts: list[Manifest], together: list[Manifest], settings: Settings
) -> Manifest:
    home = {name: str(pods.WORK_DIR) for name in ("HOME", "TMPDIR")} | {"HF_HOME": str(pods.WORK_DIR / "huggingface")}
    return {
        "name": CONTAINER,
        "image": settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": _arguments(spec, attempt),
        "env": [*manifests_pod.environment(home | dict(settings.trainer_env)), *together],
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT}],
        "resources": manifests_pod.resources(spec.compute),
        "terminationMessagePolicy": "File",
        "securityContext": manifests_pod.CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }


def _arguments(spec: LoraFineTuneSpec, attempt: int) -> list[str]:
    """What the trainer is told beside the run: settings, which are no inputs."""
    checkpoint = spec.checkpoint
    options: dict[str, object] = {
        "gpus": spec.compute.gpus,
        "attempt": attempt,
        "checkpoint-interval": checkpoint.interval,
        "checkpoint-keep": checkpoint.keep,
    }
    if spec.memory_profile is not MemoryProfile.AUTO:
        options["memory-profile"] = spec.memory_profile.value
    return ["job", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


def _volumes(meta: Meta, spec: LoraFineTuneSpec, run_id: str) -> tuple[list[Manifest], list[Manifest]]:
    """The volumes of the pod and where its container mounts them."""
    volumes: list[Manifest] = [
        {"name": "run", "configMap": {"name": naming.snapshot_name(meta.name, run_id)}},
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[Manifest] = [
        {"name": "run", "mountPath": str(pods.RUN_DIR), "readOnly": True},
        {"name": "work", "mountPath": str(pods.WORK_DIR)},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    for use, secret in _secrets(spec).items():
        volumes.append({"name": f"secret-{use}", "secret": {"secretName": secret.name, "defaultMode": 0o440}})
        mounts.append({"name": f"secret-{use}", "mountPath": str(pods.SECRETS_DIR / use), "readOnly": True})
    for number, claim in enumerate(_claims(spec)):
        source = {"claimName": claim, "readOnly": True}
        volumes.append({"name": f"claim-{number}", "persistentVolumeClaim": source})
        mounts.append({"name": f"claim-{number}", "mountPath": str(pods.PVC_DIR / claim), "readOnly": True})
    return volumes, mounts


def _secrets(spec: LoraFineTuneSpec) -> dict[str, SecretRef]:
    """The Secrets by use: the folders below SECRETS_DIR."""
    uses = {
        "output": spec.output.secret_ref,
        "base-model": spec.base_model.secret_ref,
        "train": spec.dataset.train.secret_ref,
        "eval": spec.dataset.eval.secret_ref if spec.dataset.eval is not None else None,
    }
    return {use: secret for use, secret in uses.items() if secret is not None}


def _claims(spec: LoraFineTuneSpec) -> list[str]:
    """The claims of pvc:// URIs, each once."""
    uris = [spec.base_model.uri, spec.dataset.train.uri]
    if spec.dataset.eval is not None:
        uris.append(spec.dataset.eval.uri)
    places = [parse_uri(uri) for uri in uris]
    return sorted({place.host for place in places if place.scheme is Scheme.PVC})
