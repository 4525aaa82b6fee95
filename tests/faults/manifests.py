"""A generated thousand of fine-tunes, valid and invalid: each is accepted and comes to rest, or is refused by name.

They are made from the schema of the CRD: a valid manifest, in which some fields get values at and beyond their limits.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CRD = Path(__file__).parents[2] / "crds" / "lorafinetunes.loraline.dev.yaml"
BASE: Mapping[str, Any] = {
    "baseModel": {"uri": "hf://org/model"},
    "dataset": {"train": {"uri": "s3://data/train.jsonl"}},
    "output": {"uri": "s3://adapters/tickets"},
    "compute": {"gpus": 0},
}
MAX_FIELDS = 3
WORDS = ("", "x", "s3://bucket/prefix", "hf://org/name", "pvc://claim/path", "configmap://data/train", "ftp://x", "ä b")
Schema = Mapping[str, Any]
Field = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One manifest, and the fields in which it differs from the valid one."""

    name: str
    spec: Mapping[str, Any]
    fields: tuple[Field, ...]

    def is_named_in(self, message: str) -> bool:
        """Whether a refusal names one of these fields, or a part of it."""
        return any(part in message for field in self.fields for part in field if part != "*")


def generate(count: int, seed: int = 1) -> Iterator[Case]:
    """So many cases, always the same for a seed."""
    chance = random.Random(seed)
    version = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    fields = [*_fields(schema)]
    for number in range(count):
        spec = json.loads(json.dumps(BASE))
        chosen = chance.sample(fields, chance.randint(1, MAX_FIELDS))
        for field, part in chosen:
            _set(spec, field, _value(part, chance))
        yield Case(f"case-{number}", spec, tuple(field for field, _ in chosen))


def _fields(schema: Schema, path: Field = ()) -> Iterator[tuple[Field, Schema]]:
    """Every field below an object's schema, and one that it does not have."""
    for name, part in schema.get("properties", {}).items():
        yield (*path, name), part
        if part.get("type") == "object":
            yield from _fields(part, (*path, name))


def _set(spec: dict[str, Any], field: Field, value: Any) -> None:
    place = spec
    for name in field[:-1]:
        inner = place.get(name)
        if not isinstance(inner, dict):
            inner = place[name] = {}
        place = inner
    place[field[-1]] = value


def _value(schema: Schema, chance: random.Random) -> Any:
    """A value at a limit of the schema, beyond one, or of another kind."""
    if chance.random() < 0.1:
        return chance.choice([None, "text", -1, 1.5, True, [], {}])
    options: list[Any] = list(schema.get("enum", ()))
    match schema.get("type"):
        case "integer":
            options += _numbers(schema, 1)
        case "number":
            options += _numbers(schema, 0.001)
        case "boolean":
            options += [True, False]
        case "string":
            longest = schema.get("maxLength", 64)
            options += [*WORDS, "a" * min(longest, 4096), "a" * (min(longest, 4096) + 1)]
        case "array":
            item = _value(schema["items"], chance)
            options += [[], [item], [copy.deepcopy(item)] * (min(schema.get("maxItems", 8), 64) + 1)]
        case "object":
            options += [{}, {"unknownField": 1}]
            options += [{name: _value(part, chance)} for name, part in schema.get("properties", {}).items()]
    return chance.choice(options or ["x", 1, {"a": "b"}])


def _numbers(schema: Schema, step: float) -> list[Any]:
    low, high = schema.get("minimum", -2), schema.get("maximum", 1000)
    return [low, high, low - step, high + step, low + step]
