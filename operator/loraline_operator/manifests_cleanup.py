"""The Job that deletes what a fine-tune published, when it is deleted and asks for that.

It has no owner: with foreground deletion, which Argo CD uses, the garbage collector would delete it before it begins.
Its TTL removes it where the operator does not.
"""

from __future__ import annotations

from typing import NamedTuple

from loraline_api import pods
from loraline_api.compute import Compute, ResourceRequests
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.outcome import PERMANENT_EXIT_CODES
from loraline_operator import manifests_pod, naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta
from loraline_operator.settings import Settings

CONTAINER = "trainer"
DEADLINE_S = 600
TTL_S = 3600
"""Time for which a Job that failed is kept, for its log."""

REQUESTS = ResourceRequests(cpu="100m", memory="512Mi")


class RunToDelete(NamedTuple):
    """A run, and the version that it published if it did."""

    run_id: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.run_id}={self.version}" if self.version else self.run_id


def job(meta: Meta, spec: LoraFineTuneSpec, runs: tuple[RunToDelete, ...], settings: Settings) -> Manifest:
    """The Job that deletes the output of these runs."""
    labels = naming.common_labels(naming.CLEANUP) | {naming.FINETUNE_LABEL: meta.name}
    permanent = sorted(int(code) for code in PERMANENT_EXIT_CODES)
    codes = {"containerName": CONTAINER, "operator": "In", "values": permanent}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": naming.cleanup_job_name(meta.name, meta.uid),
            "namespace": meta.namespace,
            "labels": dict(labels),
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": DEADLINE_S,
            "ttlSecondsAfterFinished": TTL_S,
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": codes}]},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(spec, runs, settings)},
        },
    }


def _pod_spec(spec: LoraFineTuneSpec, runs: tuple[RunToDelete, ...], settings: Settings) -> Manifest:
    """A small pod that needs no GPU, wherever the training pods' taints are tolerated."""
    compute = Compute(
        gpus=0,
        requests=REQUESTS,
        tolerations=spec.compute.tolerations,
        service_account_name=spec.compute.service_account_name,
    )
    volumes: list[Manifest] = [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    mounts: list[Manifest] = [
        {"name": "work", "mountPath": str(pods.WORK_DIR)},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    secret = spec.output.secret_ref
    if secret is not None:
        volumes.append({"name": "secret-output", "secret": {"secretName": secret.name, "defaultMode": 0o440}})
        path = str(pods.SECRETS_DIR / "output")
        mounts.append({"name": "secret-output", "mountPath": path, "readOnly": True})
    container = {
        "name": CONTAINER,
        "image": settings.trainer_image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": _arguments(spec, runs),
        "env": manifests_pod.environment({"HOME": str(pods.WORK_DIR)} | dict(settings.trainer_env)),
        "resources": manifests_pod.resources(compute),
        "terminationMessagePolicy": "File",
        "securityContext": manifests_pod.CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }
    return {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": volumes,
        **manifests_pod.common(compute),
    }


def _arguments(spec: LoraFineTuneSpec, runs: tuple[RunToDelete, ...]) -> list[str]:
    """`loraline-train delete` with the place and the runs."""
    place = {"--uri": spec.output.uri, "--endpoint": spec.output.endpoint, "--region": spec.output.region}
    named = [part for option, value in place.items() if value for part in (option, value)]
    return ["delete", *named, *(part for run in runs for part in ("--run", str(run)))]
