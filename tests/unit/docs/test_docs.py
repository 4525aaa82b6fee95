"""The user guide: what is generated is up to date, every reason is explained, and links and examples hold."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from loraline_api import conditions, deployment, finetune
from loraline_api.model import ApiModel
from loraline_api.policy import Policy

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*DOCS.rglob("*.md"), ROOT / "README.md"])
EXAMPLES: dict[str, type[ApiModel]] = {
    "LoraFineTune": finetune.LoraFineTuneSpec,
    "AdapterDeployment": deployment.AdapterDeploymentSpec,
}
GENERATED_DATA = ("train.jsonl", "eval.jsonl")


def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_field_reference_is_what_make_generate_writes() -> None:
    for path, text in generator().pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} differs: run `make generate`"


def test_troubleshooting_has_an_entry_for_every_reason_and_no_other() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### (\w+)$", text, flags=re.MULTILINE)
    assert sorted(entries) == sorted(conditions.Reason)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_to_files(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def manifests() -> list[tuple[str, dict[str, object]]]:
    """Every manifest of ours in YAML files and in YAML blocks of the pages, with where it stands."""
    found = [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in DOCS.rglob("*.yaml")]
    for page in PAGES:
        blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        found += [(page, block) for block in blocks]
    documents = [(place, item) for place, text in found for item in yaml.safe_load_all(text)]
    return [(place, item) for place, item in documents if isinstance(item, dict) and item.get("kind") in EXAMPLES]


def test_the_policy_of_the_guide_is_valid() -> None:
    text = (DOCS / "policy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    policy = Policy.model_validate(yaml.safe_load(block)["policy"])
    assert policy.of("team-a").limits.gpus == 16
    assert policy.of("research-x").limits.rank is None


@pytest.mark.parametrize(("place", "manifest"), manifests(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_manifest_of_the_guide_is_valid(place: str, manifest: dict[str, object]) -> None:
    EXAMPLES[str(manifest["kind"])].model_validate(manifest["spec"])


def test_the_data_sets_of_the_example_are_what_its_script_writes(tmp_path: Path) -> None:
    shutil.copytree(DOCS / "examples" / "tickets", tmp_path / "tickets")
    (tmp_path / "tickets-v2").mkdir()
    runpy.run_path(str(tmp_path / "tickets" / "make_tickets.py"), run_name="__main__")
    for folder in ("tickets", "tickets-v2"):
        for name in GENERATED_DATA:
            there = (DOCS / "examples" / folder / name).read_bytes()
            assert (tmp_path / folder / name).read_bytes() == there, f"{folder}/{name}: run make_tickets.py"
