"""What a checkpoint says of itself: its manifest, its place, and the digest of the inputs that it belongs to.

Layout below the output's prefix: `checkpoints/<run id>/<step>-<token>/` holds the files and, written last,
`manifest.json`: no manifest, no checkpoint. The token is new each time, so that no file is ever written twice.
"""

from __future__ import annotations

import array
import hashlib
import json
from datetime import datetime
from pathlib import Path

from pydantic import Field

from loraline_api import artifact, run
from loraline_api.model import StatusModel
from loraline_trainer.data.preparation import Prepared

MANIFEST = artifact.MANIFEST
SCHEMA_VERSION = 1


class Manifest(StatusModel):
    """What manifest.json of a checkpoint holds."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this format.")
    run_id: str = Field(description="Run that it belongs to.")
    step: int = Field(ge=0, description="Optimizer steps done.")
    attempt: int = Field(ge=1, description="Attempt that saved it.")
    inputs_digest: str = Field(description="`inputs_digest` of the run.")
    world_size: int = Field(ge=1, description="Processes that trained.")
    files: list[artifact.AdapterFile] = Field(description="Its files, sorted by path; manifest.json is not among them.")
    trainer_version: str = Field(description="Version of loraline-train.")
    created_at: datetime = Field(description="When it was saved.")


def folder_of(run_id: str) -> str:
    """The folder of a run's checkpoints, below the output's prefix."""
    return f"checkpoints/{run_id}"


def files_in(folder: Path) -> list[artifact.AdapterFile]:
    """The files of a checkpoint on this machine."""
    return [
        artifact.AdapterFile(path=path.name, sha256=artifact.file_sha256(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    ]


def inputs_digest(recipe: run.Run, base: artifact.BaseModelIdentity, prepared: Prepared) -> str:
    """sha256 over all that a run computes from: its inputs, the base model, and the rows as tokens.

    More than the run's id: a branch of a hub may have moved on, or a file in a bucket may have changed since.
    """
    total = hashlib.sha256(json.dumps([recipe.inputs, base.digest], sort_keys=True).encode())
    for rows in (prepared.train, prepared.held_out):
        total.update(f"\n{len(rows)} rows\n".encode())
        for row in rows:
            total.update(array.array("q", [len(row.ids), *row.ids, *row.labels]).tobytes())
    return total.hexdigest()
