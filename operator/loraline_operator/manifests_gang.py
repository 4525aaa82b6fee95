"""What makes the pods of an attempt train together: numbered pods, their stable names, and torchrun's environment.

The one place that builds that environment. One node of one process needs none of it.
"""

from __future__ import annotations

from loraline_api.compute import TrainingCompute
from loraline_operator import manifests_child, naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta
from loraline_operator.observed_finetune import INDEX_ANNOTATION

MASTER_PORT = 29500
"""Where the first pod gathers the others (torchrun's default)."""


def service(meta: Meta, run_id: str) -> Manifest:
    """The headless Service that gives the pods of a run their names, before they are ready."""
    labels = manifests_child.run_labels(meta, run_id, naming.TRAINING)
    name = naming.nodes_service_name(meta.name, run_id)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": manifests_child.metadata(meta, name, labels),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": dict(labels),
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }


def job_part(nodes: int) -> Manifest:
    """The part of a Job's spec that makes one pod a node."""
    mode = {"completionMode": "Indexed"} if nodes > 1 else {}
    return {**mode, "completions": nodes, "parallelism": nodes}


def disruption_action(nodes: int) -> str:
    """What a disrupted pod means for its Job: alone it is replaced, among others the attempt ends as a whole."""
    return "FailJob" if nodes > 1 else "Ignore"


def pod_part(meta: Meta, run_id: str, nodes: int) -> Manifest:
    """The part of a pod's spec that names it after its number."""
    return {"subdomain": naming.nodes_service_name(meta.name, run_id)} if nodes > 1 else {}


def environment(meta: Meta, compute: TrainingCompute, run_id: str, attempt: int) -> list[Manifest]:
    """torchrun's environment (PyTorch: torch.distributed.run reads its options from PET_*); empty for one process."""
    if compute.processes == 1:
        return []
    master = "127.0.0.1"
    rank: Manifest = {"value": "0"}
    if compute.nodes > 1:
        job = naming.job_name(meta.name, run_id, attempt)
        master = f"{job}-0.{naming.nodes_service_name(meta.name, run_id)}"
        rank = {"valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}}}
    return [
        {"name": "PET_NNODES", "value": str(compute.nodes)},
        {"name": "PET_NPROC_PER_NODE", "value": str(max(compute.gpus, 1))},
        {"name": "PET_NODE_RANK", **rank},
        {"name": "PET_MASTER_ADDR", "value": master},
        {"name": "PET_MASTER_PORT", "value": str(MASTER_PORT)},
    ]
