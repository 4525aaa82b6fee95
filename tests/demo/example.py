"""The example of docs/examples as the demo applies it, and the questions that it asks.

Only what differs between clusters is changed: where the base model lies, how S3 is reached, and GPUs or none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import yaml

from demo.ground import ROOT
from demo.kubectl import Kubectl, Object

FINETUNE = "tickets"
ROUTE = "tickets"
DEPLOYMENT = "support"
FIRST = ROOT / "docs" / "examples" / "tickets"
SECOND = ROOT / "docs" / "examples" / "tickets-v2"

TRAINING_REQUESTS = {"cpu": "500m", "memory": "4Gi"}
SERVING_REQUESTS = {"cpu": "250m", "memory": "4Gi"}


class Place(NamedTuple):
    """What differs between clusters."""

    base_model: str
    s3_endpoint: str
    gpus: int


class Question(NamedTuple):
    """A held-out message and the answer that the data set gives."""

    message: str
    answer: str


def manifests(kubectl: Kubectl, folder: Path, place: Place) -> list[Object]:
    """The objects of an example, fitted to the place."""
    objects = list(yaml.safe_load_all(kubectl.run("kustomize", str(folder))))
    for item in objects:
        if item["kind"] != "ConfigMap":
            fit(item["spec"], item["kind"], place)
    return objects


def fit(spec: Object, kind: str, place: Place) -> None:
    """Fits a spec of either kind to the place."""
    spec["baseModel"]["uri"] = place.base_model
    requests = TRAINING_REQUESTS if kind == "LoraFineTune" else SERVING_REQUESTS
    spec["compute"] = {"gpus": place.gpus, "requests": requests}
    if kind == "LoraFineTune":
        spec["output"]["endpoint"] = place.s3_endpoint


def questions(folder: Path) -> list[Question]:
    """The held-out examples of an example's folder."""
    lines = (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    chats = [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines]
    return [Question(message, answer) for message, answer in chats]


def has_status(answer: str) -> bool | None:
    """Whether an answer is a ticket of the second data set (True), of the first (False), or no ticket (None)."""
    try:
        ticket = json.loads(answer)
    except ValueError:
        return None
    fields = ["customer", "order", "product", "problem", "wants"]
    if not isinstance(ticket, dict) or list(ticket)[:5] != fields:
        return None
    return {5: False, 6: ticket.get("status") == "new" or None}.get(len(ticket))
