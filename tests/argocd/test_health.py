"""The health that GitOps tools read off objects as our planners leave them: by Argo CD's interpreter and by kstatus.

The objects are also written beside the checks, in the layout of Argo CD's repository; `LORALINE_GOLDEN=write` writes
them anew.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from argocd import states
from argocd.states import State
from loraline_operator.actions import Kind

ROOT = Path(__file__).parents[2]
CHECKS = ROOT / "charts/argocd/resource_customizations/loraline.dev"
STATES = {Kind.FINE_TUNE: states.finetunes(), Kind.ADAPTER_DEPLOYMENT: states.deployments()}
SETUP = ROOT / "tests/tools/setup.sh"
Verdicts = dict[tuple[Kind, str], dict[str, Any]]
CASES = [(kind, name, state) for kind, found in STATES.items() for name, state in found.items()]


@pytest.fixture(scope="module")
def verdicts() -> Verdicts:
    """The verdicts on every object, by kind and state."""
    made = subprocess.run([SETUP, "argocd"], check=True, stdout=subprocess.PIPE, text=True).stdout
    evaluator = Path(made.splitlines()[-1]) / "evaluator"
    found: Verdicts = {}
    for kind, of_kind in STATES.items():
        paths = [str(data_path(kind, name)) for name in of_kind]
        script = str(CHECKS / kind / "health.lua")
        lines = subprocess.run([evaluator, script, *paths], check=True, capture_output=True, text=True).stdout
        found |= {(kind, name): json.loads(line) for name, line in zip(of_kind, lines.splitlines(), strict=True)}
    return found


def data_path(kind: Kind, name: str) -> Path:
    return CHECKS / kind / "testdata" / f"{name}.yaml"


def compare(path: Path, content: object) -> None:
    text = yaml.safe_dump(content, sort_keys=False, width=120)
    if os.environ.get("LORALINE_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "name", "state"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_an_object_has_the_health_of_its_state(kind: Kind, name: str, state: State, verdicts: Verdicts) -> None:
    argocd = {"status": state.health, "message": state.told}
    assert verdicts[kind, name] == {"argocd": argocd, "kstatus": state.kstatus}


@pytest.mark.parametrize(("kind", "name", "state"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_the_object_beside_the_check_is_what_the_planner_leaves(kind: Kind, name: str, state: State) -> None:
    compare(data_path(kind, name), state.manifest)


@pytest.mark.parametrize("kind", STATES)
def test_the_table_beside_the_check_names_every_state(kind: Kind) -> None:
    table = [
        {
            "healthStatus": {"status": state.health, "message": state.told},
            "inputPath": f"testdata/{name}.yaml",
        }
        for name, state in STATES[kind].items()
    ]
    compare(CHECKS / kind / "health_test.yaml", {"tests": table})
    assert {path.stem for path in (CHECKS / kind / "testdata").iterdir()} == set(STATES[kind])


def test_the_patch_of_argocd_cm_holds_the_checks() -> None:
    patch = yaml.safe_load((ROOT / "charts/argocd/argocd-cm.yaml").read_text(encoding="utf-8"))
    assert patch["data"] == {
        f"resource.customizations.health.loraline.dev_{kind}": (CHECKS / kind / "health.lua").read_text("utf-8")
        for kind in STATES
    }
