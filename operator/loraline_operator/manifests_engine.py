"""The container of the inference server, vLLM, in a serving pod: its command, environment, probes and mounts.

The pod around it is in `manifests_serving`.
"""

from __future__ import annotations

from loraline_api import pods
from loraline_api.deployment import AdapterDeploymentSpec
from loraline_api.leaving import ENGINE_STOP_S
from loraline_api.routing import ENGINE_PORT, SWITCHBOARD_PORT
from loraline_api.storage import Scheme, parse_uri
from loraline_operator import manifests_pod
from loraline_operator.actions import Manifest
from loraline_operator.settings import Settings

COMMAND = ("python3", "-m", "vllm.entrypoints.openai.api_server")
"""By module: the command `vllm` of the CPU build does not start."""

STARTUP_LIMIT_S = 1800
"""A large model loads in ten minutes and more from slow disks; a tiny one is up in 15 s."""

SHM_VOLUME = "shm"

ENV = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",
    "USER": "loraline",  # torch asks for the user's name, and the image has none for our uid
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",
}


def base_name(spec: AdapterDeploymentSpec) -> str:
    """The model name of the base model: org/name of hf://, else the last segment of the path."""
    where = parse_uri(spec.base_model.uri)
    return f"{where.host}/{where.path}" if where.scheme is Scheme.HF else where.path.rpartition("/")[2]


def base_path(spec: AdapterDeploymentSpec) -> str:
    """The folder of the base model in the pod: a claim is read in place, all else was fetched."""
    where = parse_uri(spec.base_model.uri)
    if where.scheme is Scheme.PVC:
        return str(pods.PVC_DIR / where.host / where.path)
    return str(pods.MODELS_DIR / "base")


def container(spec: AdapterDeploymentSpec, settings: Settings) -> Manifest:
    """The container. It is reached on loopback only, so its probes and its preStop go through the switchboard."""
    environment = dict(ENV) | (dict(settings.server_cpu_env) if spec.compute.gpus == 0 else {})
    health = {"httpGet": {"path": "/engine/health", "port": SWITCHBOARD_PORT}, "timeoutSeconds": 15}
    return {
        "name": "engine",
        "image": spec.server.image or settings.server_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(COMMAND),
        "args": arguments(spec),
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": manifests_pod.resources(spec.compute),
        "startupProbe": health | {"periodSeconds": 5, "failureThreshold": STARTUP_LIMIT_S // 5},
        "livenessProbe": health
        | {"periodSeconds": 10, "failureThreshold": 6, "terminationGracePeriodSeconds": ENGINE_STOP_S},
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": SWITCHBOARD_PORT}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": manifests_pod.CONTAINER_SECURITY,
        "volumeMounts": _mounts(spec),
    }


def arguments(spec: AdapterDeploymentSpec) -> list[str]:
    """vLLM's arguments; the spec's extraArgs come last and win."""
    server = spec.server
    options: dict[str, object] = {
        "--model": base_path(spec),
        "--served-model-name": base_name(spec),
        "--host": "127.0.0.1",
        "--port": ENGINE_PORT,
        "--dtype": server.dtype,
        "--max-loras": server.max_loras,
        "--max-lora-rank": server.max_lora_rank,
        "--max-cpu-loras": server.slots,
        "--max-model-len": server.max_model_len,
        "--quantization": server.quantization,
    }
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    switches = {
        "--enable-lora": True,
        "--disable-uvicorn-access-log": True,  # the switchboard asks each second; a crash's last words would drown
        "--enforce-eager": spec.compute.gpus == 0,
        "--trust-remote-code": spec.base_model.trust_remote_code,
    }
    return [*given, *(name for name, is_on in switches.items() if is_on), *server.extra_args]


def model_mounts(spec: AdapterDeploymentSpec) -> list[Manifest]:
    """Where a container finds the base model."""
    where = parse_uri(spec.base_model.uri)
    if where.scheme is Scheme.PVC:
        return [{"name": "claim", "mountPath": str(pods.PVC_DIR / where.host), "readOnly": True}]
    return [{"name": "models", "mountPath": str(pods.MODELS_DIR), "readOnly": True}]


def _mounts(spec: AdapterDeploymentSpec) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "adapters", "mountPath": str(pods.ADAPTERS_DIR), "readOnly": True},
        {"name": "engine-tmp", "mountPath": "/tmp"},
        *model_mounts(spec),
    ]
    if spec.compute.gpus:
        mounts.append({"name": SHM_VOLUME, "mountPath": "/dev/shm"})
    return mounts
