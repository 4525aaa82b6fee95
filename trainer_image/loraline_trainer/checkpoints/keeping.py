"""Stores checkpoints beside training: one at a time in a thread, the newest few kept.

What cannot be stored is a warning in log and progress, never the end of a run.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loraline_api.progress import MAX_PROBLEM_CHARS
from loraline_trainer import __version__, errors, numbers
from loraline_trainer.checkpoints import manifest as manifests
from loraline_trainer.checkpoints.catalog import Catalog
from loraline_trainer.checkpoints.finding import Found, Wanted
from loraline_trainer.progress import Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint that is in the store, or was found there."""

    name: str
    step: int


class Keeper:
    """Keeps the checkpoints of an attempt."""

    def __init__(self, catalog: Catalog, identity: Wanted, *, attempt: int, keep: int, tracker: Tracker) -> None:
        self._catalog = catalog
        self._identity = identity
        self._attempt = attempt
        self._keep = keep
        self._tracker = tracker
        self._thread: threading.Thread | None = None
        self._good: list[Stored] = []

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being stored."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def last_good(self) -> str | None:
        """As in `step 40 at s3://bucket/...`; None when nothing is stored."""
        if not self._good:
            return None
        return f"step {self._good[-1].step} at {self._catalog.uri(self._good[-1].name)}"

    def begin_with(self, found: Found) -> None:
        """Counts the checkpoint that the attempt goes on from among those to keep."""
        self._good = [Stored(found.name, found.manifest.step)]

    def store(self, folder: Path, step: int) -> None:
        """Begins to store a folder's files as the checkpoint of that step, and removes the folder when done.

        Waits for the one before.
        """
        self.wait()
        self._thread = threading.Thread(target=self._store, args=(folder, step), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until nothing is being stored; False when that takes longer."""
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def remove_all(self) -> None:
        """Removes every checkpoint of the run: its adapter is published."""
        self.wait()
        remove(self._catalog)

    def _store(self, folder: Path, step: int) -> None:
        began = time.monotonic()
        try:
            manifest = manifests.Manifest(
                run_id=self._catalog.run_id,
                step=step,
                attempt=self._attempt,
                inputs_digest=self._identity.inputs_digest,
                world_size=self._identity.world_size,
                files=manifests.files_in(folder),
                trainer_version=__version__,
                created_at=datetime.now(UTC),
            )
            name = self._catalog.add(folder, manifest)
            self._good = [*self._good, Stored(name, step)][-self._keep :]
            self._tracker.checkpoint(saved_step=step, problem=None)
            size = numbers.size(sum(file.size for file in manifest.files))
            took = time.monotonic() - began
            log.info("checkpoint of step %d stored: %s in %.1f s at %s", step, size, took, self._catalog.uri(name))
        except (errors.TrainerError, OSError) as error:
            problem = f"the checkpoint of step {step} is not stored: {error}"
            log.warning("%s; training goes on", problem)
            self._tracker.checkpoint(problem=problem[:MAX_PROBLEM_CHARS])
        else:
            remove(self._catalog, kept={good.name for good in self._good})
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove(catalog: Catalog, *, kept: Collection[str] = ()) -> None:
    """Removes the checkpoints of a run but those kept; what cannot be removed is a warning."""
    try:
        catalog.remove_all_but(kept)
    except (errors.TrainerError, OSError) as error:
        folder = f"{catalog.store.uri}/{manifests.folder_of(catalog.run_id)}"
        log.warning("old checkpoints stay at %s, remove them by hand: %s", folder, error)
