"""Writes the schema of `policy` into the chart's values.schema.json, so that helm refuses a wrong policy by field."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from loraline_api.policy import Policy

FILE = Path(__file__).resolve().parent / "loraline" / "values.schema.json"
BLOCK = re.compile(r'^    "policy": \{.*?^    \}', re.DOTALL | re.MULTILINE)
DROPPED = ("title", "default", "$defs")


def text() -> str:
    """The whole file as it has to be."""
    raw = Policy.model_json_schema(by_alias=True)
    lines = json.dumps(_plain(raw, raw["$defs"]), indent=2).replace("\n", "\n    ")
    return BLOCK.sub(lambda _: f'    "policy": {lines}', FILE.read_text(encoding="utf-8"))


def _plain(node: Any, definitions: dict[str, Any]) -> Any:
    """The schema with references put in place, and without what helm does not need."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        own = {key: value for key, value in node.items() if key != "$ref"}
        return _plain({**definitions[node["$ref"].rpartition("/")[2]], **own}, definitions)
    result = {}
    for key, value in node.items():
        if key == "properties":
            result[key] = {name: _plain(child, definitions) for name, child in value.items()}
        elif key not in DROPPED:
            result[key] = _plain(value, definitions)
    return result


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
