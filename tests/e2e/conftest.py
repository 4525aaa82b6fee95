"""Plays the demo once and hands out the cluster that it leaves.

LORALINE_E2E_FOLDER names the folder of a cluster that `make demo` left up, to test on it without playing again.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import fixture
from demo import __main__ as demo
from demo import ground, store
from e2e.stage import TINY_PREFIX, Stage, version_of
from tools import tiny_model


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The cluster after the demo, with a tiny model in its S3 beside the demo's."""
    given = os.environ.get("LORALINE_E2E_FOLDER")
    folder = Path(given) if given else ground.cache_folder() / f"e2e-{os.getpid()}"
    with contextlib.nullcontext() if given else _removed_after(folder):
        where = ground.built_in(folder)
        if not given:
            demo.play(where, demo.furnish(where, gpus=0, is_model_uploaded=True))
        tiny = tiny_model.write_base(tmp_path_factory.mktemp("tiny"))
        store.upload(where.kubectl, tiny, store.MODEL_BUCKET, TINY_PREFIX)
        yield Stage(where, json.loads(demo.RESULT.read_text(encoding="utf-8")))


@contextlib.contextmanager
def _removed_after(folder: Path) -> Iterator[None]:
    """The cluster of that folder is stopped and removed when the context, or this very process, ends."""
    folder.mkdir(parents=True)
    remove = ("bash", "-euc", '"$0" "$1"; rm -r "$1"', str(fixture.HERE / "down.sh"), str(folder))
    with fixture.tied("then", remove, os.environ):
        yield


@pytest.fixture(scope="session")
def untouched(stage: Stage) -> str:
    """The version of the long recipe's adapter when its training pod is left alone; the operator's pod is not."""
    stage.start("operator-deleted")
    jobs = stage.jobs("operator-deleted")
    stage.in_system("delete", "pod", "--selector", "app.kubernetes.io/component=operator")
    found = stage.completed("operator-deleted")
    assert stage.jobs("operator-deleted") == jobs
    return version_of(found)
