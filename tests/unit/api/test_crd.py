"""The CRD YAML in the repository is what the models say, and is structural."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loraline_api import crd, finetune, finetune_status, schema

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(crd.files()))
def test_the_crd_yaml_is_what_the_models_generate(name: str) -> None:
    stored = (REPOSITORY / "crds" / name).read_text(encoding="utf-8")
    assert stored == crd.files()[name], f"crds/{name} is out of date; `make generate` writes it"


@pytest.mark.parametrize(
    "definition", [crd.finetune_crd(), crd.deployment_crd()], ids=lambda d: d["spec"]["names"]["kind"]
)
def test_every_field_of_a_spec_is_described_for_kubectl_explain(definition: dict[str, Any]) -> None:
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    undescribed = [path for path, node in _fields(spec, "spec") if not node.get("description")]
    assert undescribed == []


@pytest.mark.parametrize(
    "definition", [crd.finetune_crd(), crd.deployment_crd()], ids=lambda d: d["spec"]["names"]["kind"]
)
def test_every_list_and_text_of_a_spec_is_bounded_so_that_rules_stay_cheap(definition: dict[str, Any]) -> None:
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    limits = {"array": "maxItems", "string": "maxLength"}
    unbounded = [
        path
        for path, node in _fields(spec, "spec")
        if node.get("type") in limits and limits[node["type"]] not in node and "enum" not in node
    ]
    assert unbounded == []


def test_a_default_of_an_object_is_empty_so_that_its_fields_fill_themselves() -> None:
    node = schema.structural_schema(finetune.LoraFineTuneSpec, with_defaults=True)
    assert node["properties"]["training"]["default"] == {}


def test_a_status_has_no_defaults_as_it_keeps_what_was_written() -> None:
    node = schema.structural_schema(finetune_status.LoraFineTuneStatus, with_defaults=False)
    assert [path for path, field in _fields(node, "status") if "default" in field] == []


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from _fields(child, f"{path}.{name}")
        if "items" in child:
            yield from _fields(child["items"], f"{path}.{name}[]")
