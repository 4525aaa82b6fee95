"""A run: the resolved inputs of a recipe, and the id that is their hash.

The operator snapshots a `Run` into a ConfigMap and the trainer reads nothing else of the object, so an edit while a run
is going cannot mix two recipes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from loraline_api.finetune import (
    Adapter,
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

    def inputs(self) -> dict[str, Any]:
        """What the id is hashed from: all but the id, the names and the Secrets, as these train nothing."""
        inputs = self.model_dump(mode="json", by_alias=True, exclude={"id", "name", "namespace"}, exclude_none=True)
        return {key: _without_secrets(value) for key, value in inputs.items()}

    @property
    def recipe_hash(self) -> str:
        """Hash of the inputs without the content of configmap:// data: known also when that data is gone."""
        return short_hash({key: value for key, value in self.inputs().items() if key != "dataDigests"})


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
    return run.model_copy(update={"id": short_hash(run.inputs())})


def settings_hash(spec: LoraFineTuneSpec) -> str:
    """Hash of what changes an attempt but not the run: compute, memory profile, retries, deadline and Secrets.

    A failed run is tried again when this changes; a succeeded one is left alone.
    """
    secrets = [
        part.secret_ref.name if part is not None and part.secret_ref else None
        for part in (spec.base_model, spec.dataset.train, spec.dataset.eval, spec.output)
    ]
    settings: dict[str, Any] = {
        "compute": spec.compute.dump(),
        "retries": spec.retries,
        "activeDeadlineSeconds": spec.active_deadline_seconds,
        "secrets": secrets,
    }
    if spec.memory_profile is not MemoryProfile.AUTO:  # the hash of a fine-tune that is older than this field stays
        settings["memoryProfile"] = spec.memory_profile.value
    return short_hash(settings)


def short_hash(value: Any) -> str:
    """sha256 over the canonical JSON of a value, first 10 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:RUN_ID_DIGITS]


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items() if key != "secretRef"}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value
