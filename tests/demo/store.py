"""What the demo puts into its cluster before the story begins: CRDs, namespaces, an S3, and a client pod.

The client pod runs the operator's image, for its Python; it asks and looks where users' own programs would.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import yaml

from demo import trouble
from demo.ground import CHART, NAMESPACE, Ground
from demo.kubectl import Kubectl, KubectlError, Object, wait_for

LABEL = "loraline.dev/demo"
"""On what the demo makes outside of its namespace, and on that: `true`."""

CLIENT = "client"
SECRET = "adapter-storage"
S3_ENDPOINT = f"http://s3.{NAMESPACE}.svc:9000"
MODEL_BUCKET = "models"
ADAPTER_BUCKET = "adapters"
VOLUME = f"{NAMESPACE}-s3"
STORAGE_SCRIPT = Path(__file__).parent / "inside" / "storage.py"

RESTRICTED: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def furnish(ground: Ground) -> None:
    """Makes the namespace anew with S3 and client in it; both are ready afterwards."""
    kubectl = ground.kubectl
    forget_namespace(kubectl)
    kubectl.apply(namespace())
    wait_for("the namespace's ServiceAccount", lambda: kubectl.get("serviceaccount", "default"), timeout_s=60)
    data: Object = {"emptyDir": {}}
    if ground.folder is not None:
        data = {"persistentVolumeClaim": {"claimName": "s3"}}
        kubectl.run("delete", "persistentvolume", VOLUME, "--ignore-not-found")
        kubectl.apply(*disk(ground.folder / "s3"))
    kubectl.apply(secret(), service(), s3_deployment(ground.images.s3, data), client_pod(ground.images.operator))
    try:
        kubectl.run("rollout", "status", "deployment/s3", "--timeout=180s")
        kubectl.run("wait", "--for=condition=Ready", f"pod/{CLIENT}", "--timeout=180s")
    except KubectlError as error:
        raise KubectlError(trouble.in_namespace(kubectl) or str(error)) from error
    make_buckets(kubectl, MODEL_BUCKET, ADAPTER_BUCKET)


def forget_namespace(kubectl: Kubectl) -> None:
    """Deletes the demo's namespace, if there is one and the demo made it.

    Raises:
        KubectlError: a namespace of that name is somebody else's.
    """
    found = kubectl.get("namespace", NAMESPACE)
    if found is None:
        return
    if found["metadata"].get("labels", {}).get(LABEL) != "true":
        raise KubectlError(not_ours(NAMESPACE))
    # Kubernetes deletes a namespace's pods first and looks again only after their grace period, which is long for
    # serving pods; so what has pods goes before the namespace.
    kubectl.run("delete", "adapterdeployments,lorafinetunes", "--all", "--timeout=120s")
    kubectl.run("delete", "deployments,pods", "--all", "--timeout=180s")
    kubectl.run("delete", "namespace", NAMESPACE, "--timeout=180s")


def not_ours(name: str) -> str:
    """The sentence about a namespace that somebody else made."""
    return f"the namespace {name} is not the demo's: it lacks the label {LABEL}=true; delete it if nobody needs it"


def make_buckets(kubectl: Kubectl, *names: str) -> None:
    """Makes the S3 buckets that are not there."""
    kubectl.run(*kubectl.python(CLIENT, STORAGE_SCRIPT, "bucket", *names))


def upload(kubectl: Kubectl, folder: Path, bucket: str, prefix: str) -> None:
    """Puts the files of a folder into S3, through the client pod.

    Raises:
        KubectlError: the client ended with an error.
    """
    with kubectl.start(*kubectl.python(CLIENT, STORAGE_SCRIPT, "upload", bucket, prefix)) as process:
        with (
            contextlib.suppress(BrokenPipeError),  # the exit code says it
            cast("IO[bytes]", process.stdin) as pipe,
            tarfile.open(fileobj=pipe, mode="w|") as archive,
        ):
            for path in sorted(folder.iterdir()):
                archive.add(path, arcname=path.name)
        if process.wait() != 0:
            raise KubectlError(
                f"the upload of {folder} to s3://{bucket}/{prefix} broke off; its last words stand above"
            )


def listing(kubectl: Kubectl, bucket: str, prefix: str) -> list[tuple[str, int]]:
    """Keys and sizes of the objects below a prefix."""
    text = kubectl.run(*kubectl.python(CLIENT, STORAGE_SCRIPT, "list", bucket, prefix))
    return [(key, int(size)) for size, _, key in (line.partition(" ") for line in text.splitlines())]


def reaches(kubectl: Kubectl, url: str) -> bool:
    """Whether a pod of the cluster gets an answer from there."""
    script = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=10)"
    try:
        kubectl.run("exec", CLIENT, "--", "python3", "-c", script, url)
    except KubectlError:
        return False
    return True


def crds() -> list[Object]:
    """Our CRDs, labelled as the demo's."""
    found = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted((CHART / "crds").glob("*.yaml"))]
    for crd in found:
        crd["metadata"].setdefault("labels", {})[LABEL] = "true"
    return found


def namespace(name: str = NAMESPACE) -> Object:
    """A namespace of the demo's, with the Pod Security Standard `restricted` enforced."""
    labels = {LABEL: "true", "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def secret(name: str = SECRET, keys: Sequence[str] = ()) -> Object:
    """The keys of the S3, made up here unless given."""
    access, hidden = keys or (secrets.token_hex(8), secrets.token_hex(20))
    data = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": hidden}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def service() -> Object:
    """The S3 as http://s3:9000."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s3"},
        "spec": {"selector": {"app": "s3"}, "ports": [{"port": 9000}]},
    }


def disk(folder: Path) -> tuple[Object, Object]:
    """A volume over a new folder of the built-in cluster's node, and the claim to it: a storage that outlives the node.

    Dynamic volumes are not to be had there, and what an emptyDir holds lives as long as its pod.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chown(folder, POD_SECURITY["runAsUser"], POD_SECURITY["fsGroup"])
    shape = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": VOLUME, "labels": {LABEL: "true"}},
        "spec": shape
        | {
            "capacity": {"storage": "100Gi"},
            "hostPath": {"path": str(folder), "type": "Directory"},
            "claimRef": {"namespace": NAMESPACE, "name": "s3"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "s3"},
        "spec": shape | {"volumeName": VOLUME, "resources": {"requests": {"storage": "100Gi"}}},
    }
    return volume, claim


def s3_deployment(image: str, data: Object) -> Object:
    """versitygw over a volume."""
    keys = {"ROOT_ACCESS_KEY": "AWS_ACCESS_KEY_ID", "ROOT_SECRET_KEY": "AWS_SECRET_ACCESS_KEY"}
    container = {
        "name": "s3",
        "image": image,
        "env": [
            {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}} for name, key in keys.items()
        ],
        "ports": [{"containerPort": 9000}],
        "readinessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "s3"},
        "spec": {
            "selector": {"matchLabels": {"app": "s3"}},
            "strategy": {"type": "Recreate"},
            "template": {
                "metadata": {"labels": {"app": "s3"}},
                "spec": {
                    "securityContext": POD_SECURITY,
                    "automountServiceAccountToken": False,
                    "containers": [container],
                    "volumes": [{"name": "data", **data}, {"name": "tmp", "emptyDir": {}}],
                },
            },
        },
    }


def client_pod(image: str) -> Object:
    """A pod that waits to be told what to ask (`kubectl exec`)."""
    container = {
        "name": "client",
        "image": image,
        "command": ["python3", "-c", "import signal; signal.signal(15, lambda *_: exit()); signal.pause()"],
        "env": [{"name": "S3_ENDPOINT", "value": S3_ENDPOINT}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "storage", "mountPath": f"/secrets/{SECRET}", "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": CLIENT},
        "spec": {
            "securityContext": POD_SECURITY,
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": [{"name": "storage", "secret": {"secretName": SECRET}}, {"name": "tmp", "emptyDir": {}}],
        },
    }
