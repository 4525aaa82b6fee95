"""The policy in its ConfigMap, parsed. Reading the cluster is not done here."""

from __future__ import annotations

import yaml
from pydantic import ValidationError

from loraline_api import policy as api_policy
from loraline_api.policy import ALLOW_ALL, Policy
from loraline_operator.actions import Manifest, Ref

KEY = "policy.yaml"


def policy(ref: Ref, manifest: Manifest | None) -> Policy:
    """The policy in a ConfigMap; the one that allows all where there is none.

    Raises:
        ValueError: what is there is no policy; the message says where and why.
    """
    if manifest is None:
        return ALLOW_ALL
    data = manifest.get("data") or {}
    if KEY not in data:
        keys = ", ".join(sorted(data)) or "none"
        raise ValueError(f"{ref} has no key {KEY} (its keys: {keys}); add it, or delete the ConfigMap to allow all")
    try:
        document = yaml.safe_load(data[KEY])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{ref}, {KEY} is no YAML: {where}{error.problem}; mend it") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{ref}, {KEY} is no YAML: {error}; mend it") from error
    try:
        return Policy.model_validate({} if document is None else document)
    except ValidationError as error:
        raise ValueError(f"{ref}, {KEY}: {api_policy.problem(error)}; mend it") from error
