"""The metav1.LabelSelector of Kubernetes: which labels it asks for, and as the text that list requests take.

Kubernetes: "Labels and Selectors", set-based requirements. All requirements have to hold; none at all match everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from loraline_api.model import ApiModel, Rule

LABEL_KEY = r"^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$"

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


class Operator(StrEnum):
    """How a requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(ApiModel):
    """What one label has to be."""

    key: LabelKey = Field(description="Key of the label.")
    operator: Operator = Field(description="How its value is compared with `values`.")
    values: list[LabelValue] = Field(
        default=[], max_length=32, description="Values, for In and NotIn; none for Exists and DoesNotExist."
    )
    rules = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "'matchExpressions: ' + self.key + ' has operator ' + self.operator + "
            "': In and NotIn need at least one of values, Exists and DoesNotExist take none'",
            is_expression=True,
        ),
    )

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels are as it asks."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels

    def text(self) -> str:
        """As list requests take it."""
        match self.operator:
            case Operator.IN:
                return f"{self.key} in ({','.join(self.values)})"
            case Operator.NOT_IN:
                return f"{self.key} notin ({','.join(self.values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"


class LabelSelector(ApiModel):
    """A metav1.LabelSelector; an empty one matches everything."""

    match_labels: dict[str, LabelValue] = Field(default={}, max_length=32, description="Labels that must be there.")
    match_expressions: list[Requirement] = Field(
        default=[], max_length=32, description="Further requirements; all must hold."
    )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is selected."""
        has_labels = all(labels.get(key) == value for key, value in self.match_labels.items())
        return has_labels and all(requirement.holds(labels) for requirement in self.match_expressions)

    def text(self) -> str:
        """As the labelSelector of list requests; empty when it matches everything."""
        equal = [f"{key}={value}" for key, value in sorted(self.match_labels.items())]
        return ",".join([*equal, *(requirement.text() for requirement in self.match_expressions)])
