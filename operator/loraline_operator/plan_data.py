"""Whether the configmap:// data of a fine-tune is there and fits into the snapshot of a run.

What is in the data is the trainer's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loraline_api.conditions import Reason
from loraline_api.finetune import LoraFineTuneSpec
from loraline_api.storage import Location, Scheme, parse_uri
from loraline_operator.observed_finetune import Data, DataProblem, MissingData

MAX_DATA_BYTES = 900 * 1024
"""Most bytes of data in a snapshot: a ConfigMap holds 1 MiB in all (Kubernetes: MaxSecretSize), and the run lies there
too."""

NAMED_KEYS = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """Why no run can start."""

    reason: Reason
    message: str


def sources(spec: LoraFineTuneSpec) -> dict[str, Location]:
    """The configmap:// sources by part of the dataset."""
    parts = {"train": spec.dataset.train, "eval": spec.dataset.eval}
    places = {part: parse_uri(source.uri) for part, source in parts.items() if source is not None}
    return {part: place for part, place in places.items() if place.scheme is Scheme.CONFIGMAP}


def resolve(
    spec: LoraFineTuneSpec, observed: Mapping[str, Data | MissingData]
) -> tuple[dict[str, Data], Problem | None]:
    """The data by part of the dataset, and the first problem with it."""
    data: dict[str, Data] = {}
    for part, place in sources(spec).items():
        item = observed.get(part, MissingData(DataProblem.NO_CONFIG_MAP))
        if isinstance(item, MissingData):
            return data, Problem(Reason.DATASET_NOT_FOUND, _missing(part, place, item))
        data[part] = item
    total = sum(item.size for item in data.values())
    if total > MAX_DATA_BYTES:
        message = (
            f"spec.dataset: the configmap:// data has {total} bytes and the limit is {MAX_DATA_BYTES}; "
            "put it into s3://, pvc:// or https:// instead"
        )
        return data, Problem(Reason.DATASET_INVALID, message)
    return data, None


def _missing(part: str, place: Location, missing: MissingData) -> str:
    field = f"spec.dataset.{part}.uri is {place}"
    if missing.problem is DataProblem.NO_CONFIG_MAP:
        return f"{field}, and there is no ConfigMap {place.host} in this namespace; create it"
    keys = ", ".join(missing.keys[:NAMED_KEYS]) or "none"
    return f"{field}, and the ConfigMap {place.host} has no key {place.path} (its keys: {keys}); add it or name another"
