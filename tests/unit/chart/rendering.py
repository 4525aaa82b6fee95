"""Renders the chart with helm and gives its objects."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "loraline"
IMAGES = ("images.operator=example.test/loraline-operator:1", "images.trainer=example.test/loraline-trainer:1")

Object = dict[str, Any]


@cache
def helm() -> Path:
    """The helm of tests/tools."""
    done = subprocess.run([ROOT / "tests/tools/setup.sh", "tools"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[-1]) / "helm"


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """helm with these arguments, whatever its exit code."""
    return subprocess.run([helm(), *args], capture_output=True, text=True, check=False)


@cache
def render(*settings: str) -> tuple[Object, ...]:
    """The chart's objects with these values, as --set takes them; the images are given."""
    options = [option for setting in (*IMAGES, *settings) for option in ("--set", setting)]
    done = run(
        "template", "loraline", str(CHART), "--namespace", "loraline-system", "--kube-version", "1.33.0", *options
    )
    assert done.returncode == 0, done.stderr
    return tuple(item for item in yaml.safe_load_all(done.stdout) if item)


def of_kind(objects: tuple[Object, ...], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [item for item in objects if item["kind"] == kind]
