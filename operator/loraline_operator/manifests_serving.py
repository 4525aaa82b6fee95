"""The children of an AdapterDeployment as Kubernetes objects: Deployment, Service, and the ConfigMap with the routes.

Pure: the same spec and settings give the same manifests. vLLM's container is in `manifests_engine`.
"""

from __future__ import annotations

import hashlib
import json

from loraline_api import API_VERSION, pods
from loraline_api.deployment import AdapterDeploymentSpec
from loraline_api.leaving import GRACE_PERIOD_S
from loraline_api.routing import ENGINE_PORT, SWITCHBOARD_PORT, TABLE_KEY, RoutingTable
from loraline_api.storage import S3Access, Scheme, parse_uri
from loraline_operator import manifests_engine, manifests_pod, naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta
from loraline_operator.settings import Settings

COMPONENT = "serving"
PROGRAM = "loraline-switchboard"


def selector(name: str) -> dict[str, str]:
    """Labels by which the pods of a deployment are found."""
    return {naming.DEPLOYMENT_LABEL: name}


def routes(meta: Meta, table: RoutingTable) -> Manifest:
    """The ConfigMap with the routing table."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(meta, naming.routes_name(meta.name)),
        "data": {TABLE_KEY: table.encode()},
    }


def service(meta: Meta) -> Manifest:
    """The Service by which callers reach the switchboards."""
    spec = {
        "type": "ClusterIP",
        "selector": selector(meta.name),
        "ports": [{"name": "http", "port": 80, "targetPort": SWITCHBOARD_PORT, "protocol": "TCP"}],
    }
    return _hashed({"apiVersion": "v1", "kind": "Service", "metadata": _metadata(meta, meta.name), "spec": spec})


def deployment(meta: Meta, spec: AdapterDeploymentSpec, storage: S3Access, settings: Settings) -> Manifest:
    """The Deployment. A change of its template adds a pod, waits until it serves all routes, and drains an old one.

    Args:
        storage: how the pods reach S3; the spec's own, or that of the fine-tunes.
    """
    labels = naming.common_labels(COMPONENT) | selector(meta.name)
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(meta, meta.name),
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 2 * manifests_engine.STARTUP_LIMIT_S,
            "selector": {"matchLabels": selector(meta.name)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec(meta, spec, storage, settings)},
        },
    }
    return _hashed(manifest)


def written_hash(manifest: Manifest) -> str:
    """The hash that a manifest of ours carries."""
    return str(manifest["metadata"]["annotations"][naming.HASH_ANNOTATION])


def spec_patch(live: Manifest, wanted: Manifest) -> Manifest:
    """The JSON merge patch (RFC 7386) that turns the spec of a live Deployment into the wanted one.

    What is wanted no more becomes null, upon which the API server fills its defaults in again; `paused` is a person's.
    Metadata of the pod template is left to others too: `kubectl rollout restart` writes there.
    """
    patch: Manifest = {key: None for key in live if key not in wanted and key != "paused"}
    for key, value in wanted.items():
        if isinstance(value, dict) and isinstance(live.get(key), dict):
            inner = {**value} if key == "metadata" else spec_patch(live[key], value)
            if inner:
                patch[key] = inner
        elif key not in live or live[key] != value:
            patch[key] = value
    return patch


def _hashed(manifest: Manifest) -> Manifest:
    """The manifest with the hash of its labels and spec, by which a later plan knows what was written."""
    text = json.dumps([manifest["metadata"]["labels"], manifest["spec"]], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return manifest | {"metadata": manifest["metadata"] | {"annotations": {naming.HASH_ANNOTATION: digest}}}


def _metadata(meta: Meta, name: str) -> Manifest:
    return {
        "name": name,
        "namespace": meta.namespace,
        "labels": naming.common_labels(COMPONENT) | selector(meta.name),
        "ownerReferences": [naming.owner_reference("AdapterDeployment", API_VERSION, meta.name, meta.uid)],
    }


def _pod_spec(meta: Meta, spec: AdapterDeploymentSpec, storage: S3Access, settings: Settings) -> Manifest:
    """The serving pod."""
    first = [] if parse_uri(spec.base_model.uri).scheme is Scheme.PVC else [_fetch_base(spec, storage, settings)]
    return {
        "terminationGracePeriodSeconds": GRACE_PERIOD_S,
        "initContainers": [*first, _switchboard(spec, storage, settings)],
        "containers": [manifests_engine.container(spec, settings)],
        "volumes": _volumes(meta, spec, storage),
        **manifests_pod.common(spec.compute),
    }


def _fetch_base(spec: AdapterDeploymentSpec, storage: S3Access, settings: Settings) -> Manifest:
    """The container that brings the base model before anything else starts."""
    arguments = ["fetch-base", "--uri", spec.base_model.uri, "--to", str(pods.MODELS_DIR / "base")]
    if spec.base_model.revision is not None:
        arguments += ["--revision", spec.base_model.revision]
    mounts = [{"name": "models", "mountPath": str(pods.MODELS_DIR)}, {"name": "tmp", "mountPath": "/tmp"}]
    return own_container("fetch-base", settings) | {
        "args": [*arguments, *storage_arguments(storage)],
        "volumeMounts": [*mounts, *_secret_mounts(spec, storage)],
    }


def _switchboard(spec: AdapterDeploymentSpec, storage: S3Access, settings: Settings) -> Manifest:
    """The sidecar; it starts before vLLM and ends after it, so that it can drain."""
    options = {
        "--base-name": manifests_engine.base_name(spec),
        "--base-path": manifests_engine.base_path(spec),
        "--table": str(pods.ROUTES_DIR / TABLE_KEY),
        "--adapters": str(pods.ADAPTERS_DIR),
        "--engine": f"http://127.0.0.1:{ENGINE_PORT}",
    }
    mounts: list[Manifest] = [
        {"name": "routes", "mountPath": str(pods.ROUTES_DIR), "readOnly": True},
        {"name": "adapters", "mountPath": str(pods.ADAPTERS_DIR)},
        {"name": "tmp", "mountPath": "/tmp"},
        *manifests_engine.model_mounts(spec),
        *_secret_mounts(spec, storage),
    ]
    alive = {"httpGet": {"path": "/livez", "port": SWITCHBOARD_PORT}, "timeoutSeconds": 5}
    return own_container("switchboard", settings) | {
        "args": ["serve", *(text for pair in options.items() for text in pair), *storage_arguments(storage)],
        "restartPolicy": "Always",
        "ports": [{"name": "http", "containerPort": SWITCHBOARD_PORT}],
        "startupProbe": alive | {"periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": alive | {"periodSeconds": 10, "failureThreshold": 3},
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": SWITCHBOARD_PORT},
            "timeoutSeconds": 5,
            "periodSeconds": 2,
            "failureThreshold": 2,
        },
        "volumeMounts": mounts,
    }


def own_container(name: str, settings: Settings) -> Manifest:
    """A container of the switchboard's image."""
    return {
        "name": name,
        "image": settings.switchboard_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [PROGRAM],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": manifests_pod.CONTAINER_SECURITY,
    }


def storage_arguments(storage: S3Access) -> list[str]:
    """How the switchboard's program is told where S3 is."""
    options = {"--endpoint": storage.endpoint, "--region": storage.region}
    return [text for name, value in options.items() if value is not None for text in (name, value)]


def _secrets(spec: AdapterDeploymentSpec, storage: S3Access) -> dict[str, str]:
    """Names of the Secrets by use: the folders below SECRETS_DIR."""
    uses = {"storage": storage.secret_ref, "base-model": spec.base_model.secret_ref}
    return {use: secret.name for use, secret in uses.items() if secret is not None}


def _secret_mounts(spec: AdapterDeploymentSpec, storage: S3Access) -> list[Manifest]:
    return [
        {"name": f"secret-{use}", "mountPath": str(pods.SECRETS_DIR / use), "readOnly": True}
        for use in _secrets(spec, storage)
    ]


def _volumes(meta: Meta, spec: AdapterDeploymentSpec, storage: S3Access) -> list[Manifest]:
    where = parse_uri(spec.base_model.uri)
    volumes: list[Manifest] = [
        {"name": "routes", "configMap": {"name": naming.routes_name(meta.name)}},
        {"name": "adapters", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "engine-tmp", "emptyDir": {}},
    ]
    if where.scheme is Scheme.PVC:
        claim = {"claimName": where.host, "readOnly": True}
        volumes.append({"name": "claim", "persistentVolumeClaim": claim})
    else:
        volumes.append({"name": "models", "emptyDir": {}})
    if spec.compute.gpus:  # CUDA's processes share memory; the runtime's default of 64 MiB is too little
        volumes.append({"name": manifests_engine.SHM_VOLUME, "emptyDir": {"medium": "Memory"}})
    for use, name in _secrets(spec, storage).items():
        volumes.append({"name": f"secret-{use}", "secret": {"secretName": name, "defaultMode": 0o440}})
    return volumes
