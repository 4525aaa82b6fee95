"""The CustomResourceDefinitions of both kinds: `python -m loraline_api.crd FOLDER` writes their YAML.

The schemas come from the models; only names, columns and subresources are said here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from loraline_api import GROUP, VERSION
from loraline_api.deployment import AdapterDeploymentSpec, AdapterDeploymentStatus
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_api.model import UNSEEN_GENERATION, ApiModel
from loraline_api.schema import structural_schema

Column = tuple[str, str, str, int]

FINETUNE_COLUMNS: tuple[Column, ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Progress", "string", ".status.display.progress", 0),
    ("Loss", "string", ".status.display.loss", 0),
    ("ETA", "string", ".status.display.eta", 0),
    ("Adapter", "string", ".status.adapter.version", 0),
    ("Base", "string", ".spec.baseModel.uri", 1),
    ("Run", "string", ".status.run.id", 1),
    ("Attempt", "integer", ".status.run.attempt", 1),
    ("GPU", "string", ".status.estimate.gpu", 1),
    ("GiB", "string", ".status.estimate.memoryGiB", 1),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)

DEPLOYMENT_COLUMNS: tuple[Column, ...] = (
    ("Phase", "string", ".status.phase", 0),
    ("Ready", "integer", ".status.readyReplicas", 0),
    ("Desired", "integer", ".spec.replicas", 0),
    ("Routes", "string", ".status.display", 0),
    ("Endpoint", "string", ".status.endpoint", 1),
    ("Base", "string", ".spec.baseModel.uri", 1),
    ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)

MAX_NAME_LENGTH = 52
"""Characters of an object's name: the names of its Jobs and Pods, at most 63, are made from it."""


UNSEEN = {"observedGeneration": UNSEEN_GENERATION, "phase": "Pending"}
"""Status of an object that the operator has not seen: kstatus takes an object without any for one that is ready."""


def crd(
    *,
    kind: str,
    plural: str,
    short: str,
    spec: type[ApiModel],
    status: type[ApiModel],
    columns: tuple[Column, ...],
    subresources: dict[str, Any],
) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    schema = {
        "description": (spec.__doc__ or "").strip(),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": MAX_NAME_LENGTH}}},
            "spec": structural_schema(spec, with_defaults=True),
            "status": structural_schema(status, with_defaults=False) | {"default": UNSEEN},
        },
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path, "priority": priority}
            for name, type_, path, priority in columns
        ],
        "schema": {"openAPIV3Schema": schema},
        "subresources": subresources,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["loraline"],
            },
            "versions": [version],
        },
    }


def finetune_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of LoraFineTune."""
    return crd(
        kind="LoraFineTune",
        plural="lorafinetunes",
        short="lft",
        spec=LoraFineTuneSpec,
        status=LoraFineTuneStatus,
        columns=FINETUNE_COLUMNS,
        subresources={"status": {}},
    )


def deployment_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of AdapterDeployment."""
    scale = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    return crd(
        kind="AdapterDeployment",
        plural="adapterdeployments",
        short="adep",
        spec=AdapterDeploymentSpec,
        status=AdapterDeploymentStatus,
        columns=DEPLOYMENT_COLUMNS,
        subresources={"status": {}, "scale": scale},
    )


def render(definition: dict[str, Any]) -> str:
    """The YAML text of a definition."""
    head = "# Generated from crds/loraline_api by `make generate`; edit the models, not this file.\n"
    return head + yaml.safe_dump(definition, sort_keys=False, width=120, allow_unicode=True)


def files() -> dict[str, str]:
    """The YAML texts by file name."""
    return {
        f"{definition['metadata']['name']}.yaml": render(definition)
        for definition in (finetune_crd(), deployment_crd())
    }


def main() -> None:
    """Writes the YAML files into the folder named by the first argument."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
