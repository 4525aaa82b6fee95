"""Turns a pydantic model into a structural OpenAPI v3 schema, as CustomResourceDefinitions want it.

References are put in place, optional fields lose their null, and the models' CEL rules become
x-kubernetes-validations. Kubernetes: "Specifying a structural schema" in the CRD documentation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from loraline_api.model import ApiModel

Schema = dict[str, Any]

DROPPED = frozenset({"title", "additionalProperties", "$defs", "exclusiveMinimum", "exclusiveMaximum", "prefixItems"})
KEPT_FORMATS = frozenset({"date-time"})


def structural_schema(model: type[ApiModel], *, with_defaults: bool) -> Schema:
    """The schema of a model.

    Args:
        with_defaults: let the API server fill defaults in (specs); a status keeps what was written.
    """
    raw = model.model_json_schema(by_alias=True)
    rules = {name: kind.rules for name, kind in _models(model) if kind.rules}
    return _Translation(raw.get("$defs", {}), rules, with_defaults).object(raw)


def _models(model: type[BaseModel]) -> Iterator[tuple[str, type[ApiModel]]]:
    """The model and all models in its fields, by name."""
    if issubclass(model, ApiModel):
        yield model.__name__, model
    for field in model.model_fields.values():
        for kind in _classes(field.annotation):
            yield from _models(kind)


def _classes(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _classes(argument)


class _Translation:
    """One walk over a JSON schema."""

    def __init__(self, definitions: dict[str, Schema], rules: dict[str, tuple[Any, ...]], with_defaults: bool) -> None:
        self._definitions = definitions
        self._rules = rules
        self._with_defaults = with_defaults

    def object(self, node: Schema) -> Schema:
        """An object schema with its properties translated and its model's rules attached."""
        out = self._scalars(node)
        out["properties"] = {name: self.value(child) for name, child in node.get("properties", {}).items()}
        rules = self._rules.get(node.get("title", ""), ())
        if rules:
            out["x-kubernetes-validations"] = [rule.schema() for rule in rules]
        required = [name for name in node.get("required", ()) if name in out["properties"]]
        if required:
            out["required"] = required
        return out

    def value(self, node: Schema) -> Schema:
        """Any schema."""
        node = self._resolved(node)
        kind = node.get("type")
        if kind == "object" and "properties" in node:
            return self.object(node)
        out = self._scalars(node)
        if kind == "array":
            out["items"] = self.value(node["items"])
        elif kind == "object":
            extra = node.get("additionalProperties")
            if isinstance(extra, dict) and extra:
                out["additionalProperties"] = self.value(extra)
            else:
                out["x-kubernetes-preserve-unknown-fields"] = True
        return out

    def _resolved(self, node: Schema) -> Schema:
        """The node with its reference put in place and its null dropped; its own description and default win."""
        own: Schema = {key: node[key] for key in ("description", "default") if key in node}
        if "anyOf" in node:
            (inner,) = [option for option in node["anyOf"] if option.get("type") != "null"]
            rest = {key: value for key, value in node.items() if key not in ("anyOf", "default", "title")}
            return self._resolved({**inner, **rest})
        if "$ref" in node:
            target = self._definitions[node["$ref"].rpartition("/")[2]]
            return {**target, **own}
        return node

    def _scalars(self, node: Schema) -> Schema:
        out: Schema = {}
        for key, value in node.items():
            if key in DROPPED or key in ("properties", "required", "items", "anyOf", "$ref"):
                continue
            if key == "format" and value not in KEPT_FORMATS:
                continue
            if key == "default" and (not self._with_defaults or value is None):
                continue
            if key == "const":
                out["enum"] = [value]
                continue
            out[key] = {} if key == "default" and isinstance(value, dict) else _plain(value)
        if "exclusiveMinimum" in node:
            out |= {"minimum": node["exclusiveMinimum"], "exclusiveMinimum": True}
        if "exclusiveMaximum" in node:
            out |= {"maximum": node["exclusiveMaximum"], "exclusiveMaximum": True}
        return out


def _plain(value: Any) -> Any:
    """JSON values as they are; whole floats as integers, so that YAML shows 1 and not 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
