"""What every model of the API shares: camelCase names, no unknown fields, and CEL rules beside the fields they judge.

The rules are data here; `loraline_api.crd` writes them into the CRD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

UNSEEN_GENERATION = -1
"""status.observedGeneration of an object that the operator has not seen."""


class Rule(NamedTuple):
    """A CEL rule of the CRD schema (Kubernetes: x-kubernetes-validations).

    `message` is a CEL expression that yields a string when `is_expression`, so that it can name the value it got.
    """

    rule: str
    message: str
    is_expression: bool = False

    def schema(self) -> dict[str, str]:
        """The rule as an item of x-kubernetes-validations."""
        return {"rule": self.rule, "messageExpression" if self.is_expression else "message": self.message}


def by_rule(rule: Rule) -> Callable[[dict[str, Any]], None]:
    """States a field's limits in the CRD by a CEL rule instead of pattern, minimum and maximum.

    The API server prints field and value before the rule's message, so that the message says limit and remedy. For
    `json_schema_extra`; the model itself keeps its limits.
    """

    def change(schema: dict[str, Any]) -> None:
        for part in (schema, *schema.get("anyOf", ())):
            for key in ("pattern", "minimum", "maximum"):
                part.pop(key, None)
        schema["x-kubernetes-validations"] = [rule.schema()]

    return change


class ApiModel(BaseModel):
    """Base of all models: camelCase on the wire, unknown fields refused, values frozen."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    rules: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules over this object, for the CRD schema."""

    def dump(self) -> dict[str, Any]:
        """The JSON object with camelCase keys; fields that are None are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """Base of what is read back from a status: fields of a newer operator are dropped, not refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)
