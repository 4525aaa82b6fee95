"""Where things lie inside the pods: the paths that the operator mounts and the programs read.

Each mounted Secret is a folder with one file per key.
"""

from pathlib import PurePosixPath

RUN_DIR = PurePosixPath("/etc/loraline/run")
"""Training pod: the snapshot ConfigMap (run.json, and the data of configmap:// datasets)."""

ROUTES_DIR = PurePosixPath("/etc/loraline/routes")
"""Serving pod: the ConfigMap with the routing table."""

BASE_DIR = PurePosixPath("/etc/loraline/base")
"""Pod that checks an adapter: the ConfigMap that describes the base model."""

SECRETS_DIR = PurePosixPath("/etc/loraline/secrets")
"""Both: Secrets by use: `output`, `base-model`, `train`, `eval` (training); `storage`, `base-model` (serving)."""

PVC_DIR = PurePosixPath("/mnt/pvc")
"""Both: claims of pvc:// URIs, read-only, each below its name."""

WORK_DIR = PurePosixPath("/workspace")
"""Training pod: scratch (emptyDir), also HOME."""

MODELS_DIR = PurePosixPath("/models")
"""Serving pod: scratch (emptyDir) with the base model in `base`, unless it lies on a claim."""

ADAPTERS_DIR = PurePosixPath("/adapters")
"""Serving pod: scratch (emptyDir) shared by the switchboard, which writes, and vLLM, which reads."""

TERMINATION_LOG = PurePosixPath("/dev/termination-log")

USER_ID = 65532
"""User and group of all our containers (nonroot, as in distroless images)."""
