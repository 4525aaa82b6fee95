"""Finds the checkpoint that an attempt goes on from: the newest that is whole and belongs to just this run.

One that is damaged is passed over for the next older one, and told.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from loraline_trainer import errors
from loraline_trainer.checkpoints import state as states
from loraline_trainer.checkpoints.catalog import Catalog, Damaged, step_of
from loraline_trainer.checkpoints.manifest import SCHEMA_VERSION, Manifest
from loraline_trainer.checkpoints.state import TrainingState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a checkpoint must have been made from to be of use."""

    inputs_digest: str
    world_size: int


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint on this machine, verified."""

    name: str
    manifest: Manifest
    state: TrainingState
    folder: Path

    def __str__(self) -> str:
        return f"step {self.manifest.step} of attempt {self.manifest.attempt}"


@dataclass(frozen=True, slots=True)
class Search:
    """What a search found.

    Attributes:
        damaged: what is wrong with checkpoints that are not what they say.
        problem: why there is none, when the store does not tell or none fits.
    """

    found: Found | None = None
    damaged: tuple[str, ...] = ()
    problem: str | None = None


def newest(catalog: Catalog, wanted: Wanted, work: Path) -> Search:
    """The newest checkpoint that fits, copied into a folder below `work`.

    Raises:
        StorageUnavailable: the store does not answer; beginning anew would throw away what it holds.
    """
    try:
        return _newest(catalog, wanted, work)
    except errors.StorageUnavailable:
        raise
    except errors.TrainerError as error:
        log.warning("checkpoints cannot be read, so this attempt begins anew: %s", error)
        return Search(problem=f"checkpoints cannot be read: {error}")


def _newest(catalog: Catalog, wanted: Wanted, work: Path) -> Search:
    damaged: list[str] = []
    problem: str | None = None
    for name in catalog.complete():
        try:
            manifest = catalog.manifest(name)
            misfit = _misfit(manifest, wanted)
            if misfit is not None:
                log.warning("checkpoint %s is not used: %s", catalog.uri(name), misfit)
                problem = problem or f"the checkpoint of step {manifest.step} is not used: {misfit}"
                continue
            found = fetched(catalog, name, manifest, work)
        except Damaged as damage:
            log.warning("checkpoint %s is damaged: %s; skipped", catalog.uri(name), damage)
            damaged.append(f"step {step_of(name)}: {damage}")
            continue
        log.info("going on from %s (%s)", found, catalog.uri(name))
        return Search(found, tuple(damaged))
    return Search(None, tuple(damaged), problem)


def _misfit(manifest: Manifest, wanted: Wanted) -> str | None:
    """Why a checkpoint would not lead to the adapter of an uninterrupted run."""
    if manifest.schema_version != SCHEMA_VERSION:
        return f"it has format {manifest.schema_version}, and this trainer writes format {SCHEMA_VERSION}"
    if manifest.inputs_digest != wanted.inputs_digest:
        return "the dataset or the base model has changed since"
    if manifest.world_size != wanted.world_size:
        return f"{manifest.world_size} processes saved it, and {wanted.world_size} train now"
    return None


def fetched(catalog: Catalog, name: str, manifest: Manifest, work: Path) -> Found:
    """A checkpoint, copied into a folder below `work`.

    Raises:
        Damaged: it is not what its manifest says.
    """
    folder = work / "resumed"
    shutil.rmtree(folder, ignore_errors=True)
    catalog.fetch(name, manifest, folder)
    try:
        state = states.read(folder)
    except (OSError, ValueError) as error:
        raise Damaged(f"{states.FILE} is not the state of a training") from error
    return Found(name, manifest, state, folder)
