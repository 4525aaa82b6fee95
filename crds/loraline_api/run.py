"""A run: the resolved inputs of a recipe, and the id that is their hash.

The operator snapshots a `Run` into a ConfigMap and the trainer reads nothing else of the object, so an edit while a run
is going cannot mix two recipes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field

from loraline_api.finetune import (
    Adapter,
    Checkpoint,
    Dataset,
    Evaluation,
    LoraFineTuneSpec,
    MemoryProfile,
    Output,
    Quantization,
    Training,
)
from loraline_api.model import StatusModel
from loraline_api.storage import BaseModelSource

RUN_ID_DIGITS = 10
RUN_KEY = "run.json"
"""Key of the run in its snapshot ConfigMap."""

NO_INPUTS = frozenset({"secretRef", "deletionPolicy"})
"""Fields that change nothing about what is trained."""

DATA_KEYS = {"train": "train.data", "eval": "eval.data"}
"""Keys of configmap:// datasets in the snapshot ConfigMap, by part of the dataset."""


class Run(StatusModel):
    """The resolved inputs of a run; the same inputs have the same id."""

    id: str = Field(default="", max_length=10, description="sha256 over the inputs, first 10 hex digits.")
    name: str = Field(description="Name of the fine-tune; not an input.")
    namespace: str = Field(description="Namespace of the fine-tune; not an input.")
    base_model: BaseModelSource
    dataset: Dataset
    objective: str
    adapter: Adapter
    quantization: Quantization
    training: Training
    evaluation: Evaluation
    output: Output
    data_digests: dict[str, str] = Field(default={}, description="sha256 of configmap:// data, by part of the dataset.")
    restart: str | None = Field(default=None, description="Value of the annotation loraline.dev/restart.")

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the id is hashed from: all but the id, the names and what trains nothing."""
        inputs = self.model_dump(mode="json", by_alias=True, exclude={"id", "name", "namespace"}, exclude_none=True)
        return {key: _training_only(value) for key, value in inputs.items()}

    @property
    def recipe_hash(self) -> str:
        """Hash of the inputs without the content of configmap:// data: known also when that data is gone."""
        return short_hash({key: value for key, value in self.inputs.items() if key != "dataDigests"})


def resolve(
    name: str,
    namespace: str,
    spec: LoraFineTuneSpec,
    *,
    data_digests: Mapping[str, str],
    restart: str | None = None,
) -> Run:
    """The run that a recipe asks for, with its defaults filled in.

    Args:
        data_digests: sha256 in hex of the data of configmap:// sources, by part of the dataset (`train`, `eval`).
        restart: value of the annotation loraline.dev/restart; a new value is a new run.
    """
    adapter = spec.adapter.model_copy(update={"alpha": spec.adapter.effective_alpha})
    run = Run(
        name=name,
        namespace=namespace,
        base_model=spec.base_model,
        dataset=spec.dataset,
        objective=spec.objective,
        adapter=adapter,
        quantization=spec.quantization,
        training=spec.training,
        evaluation=spec.evaluation,
        output=spec.output,
        data_digests=dict(data_digests),
        restart=restart,
    )
    return run.model_copy(update={"id": short_hash(run.inputs)})


def settings_hash(spec: LoraFineTuneSpec, labels: Mapping[str, str] | None = None) -> str:
    """Hash of what changes an attempt but not the run.

    That is compute, memory profile, checkpoint, retries, deadline, Secrets and Kueue's labels.

    A failed run is tried again when this changes; a succeeded one is left alone. What a later version of the API added
    is hashed only where it is used, so that the hashes of earlier fine-tunes stay.

    Args:
        labels: labels that the Job takes over from its fine-tune.
    """
    secrets = [
        part.secret_ref.name if part is not None and part.secret_ref else None
        for part in (spec.base_model, spec.dataset.train, spec.dataset.eval, spec.output)
    ]
    compute = spec.compute.dump()
    if spec.compute.nodes == 1:
        del compute["nodes"]
    settings: dict[str, Any] = {
        "compute": compute,
        "retries": spec.retries,
        "activeDeadlineSeconds": spec.active_deadline_seconds,
        "secrets": secrets,
    }
    if labels:
        settings["labels"] = dict(labels)
    if spec.memory_profile is not MemoryProfile.AUTO:
        settings["memoryProfile"] = spec.memory_profile.value
    if spec.checkpoint != Checkpoint():
        settings["checkpoint"] = spec.checkpoint.dump()
    return short_hash(settings)


def short_hash(value: Any) -> str:
    """sha256 over the canonical JSON of a value, first 10 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:RUN_ID_DIGITS]


def _training_only(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _training_only(item) for key, item in value.items() if key not in NO_INPUTS}
    if isinstance(value, list):
        return [_training_only(item) for item in value]
    return value
