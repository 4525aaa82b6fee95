"""Metadata that the children of a fine-tune have in common: labels by which they are found, and their owner."""

from __future__ import annotations

from loraline_api import API_VERSION
from loraline_operator import naming
from loraline_operator.actions import Manifest
from loraline_operator.observed import Meta


def metadata(meta: Meta, name: str, labels: dict[str, str]) -> Manifest:
    """Metadata of a child that goes with its fine-tune."""
    return {
        "name": name,
        "namespace": meta.namespace,
        "labels": labels,
        "ownerReferences": [naming.owner_reference("LoraFineTune", API_VERSION, meta.name, meta.uid)],
    }


def run_labels(meta: Meta, run_id: str, component: str) -> dict[str, str]:
    """Labels of a child of a run."""
    return naming.common_labels(component) | {naming.FINETUNE_LABEL: meta.name, naming.RUN_LABEL: run_id}
