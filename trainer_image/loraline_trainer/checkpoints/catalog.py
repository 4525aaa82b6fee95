"""The checkpoints of a run in its store: adding one, listing and fetching those that are complete, removing the rest.

Which one fits is decided in `finding`; when to save is decided in `training.saving`.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from loraline_api import artifact
from loraline_trainer.checkpoints import manifest as manifests
from loraline_trainer.checkpoints.manifest import MANIFEST, Manifest
from loraline_trainer.storage.s3 import ObjectDamaged
from loraline_trainer.storage.stores import Store

log = logging.getLogger(__name__)


class Damaged(Exception):
    """A checkpoint that is not what its manifest says; the text is a clause such as `optimizer.pt is missing`."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """The checkpoints of one run."""

    store: Store
    run_id: str

    def complete(self) -> list[str]:
        """Names of the checkpoints that have a manifest, newest step first."""
        names = [name for name, files in self._listing().items() if MANIFEST in files]
        return sorted(names, key=step_of, reverse=True)

    def uri(self, name: str) -> str:
        """Where a checkpoint lies, for people."""
        return f"{self.store.uri}/{self._folder(name)}"

    def add(self, folder: Path, manifest: Manifest) -> str:
        """Stores the files of a folder, the manifest last; gives the checkpoint's name."""
        name = f"{manifest.step:08d}-{secrets.token_hex(4)}"
        for file in manifest.files:
            self.store.put(f"{self._folder(name)}/{file.path}", folder / file.path)
        text = manifest.model_dump_json(by_alias=True, indent=2).encode()
        self.store.create(f"{self._folder(name)}/{MANIFEST}", text)
        return name

    def manifest(self, name: str) -> Manifest:
        """The manifest of a checkpoint.

        Raises:
            Damaged: it cannot be read, or is of another run or of a format that this trainer does not know.
        """
        try:
            text = self.store.read(f"{self._folder(name)}/{MANIFEST}")
        except ObjectDamaged as error:
            raise Damaged(f"{MANIFEST} has other bytes than the storage was given") from error
        if text is None:
            raise Damaged(f"{MANIFEST} is missing")
        try:
            manifest = Manifest.model_validate_json(text)
        except ValueError as error:
            raise Damaged(f"{MANIFEST} is not the manifest of a checkpoint") from error
        if manifest.run_id != self.run_id or manifest.step != step_of(name):
            raise Damaged(f"{MANIFEST} speaks of step {manifest.step} of run {manifest.run_id}")
        return manifest

    def fetch(self, name: str, manifest: Manifest, folder: Path) -> None:
        """Copies the files of a checkpoint into a folder.

        Raises:
            Damaged: a file is missing or has other bytes than the manifest says.
        """
        for file in manifest.files:
            target = folder / _plain(file.path)
            try:
                is_there = self.store.fetch(f"{self._folder(name)}/{file.path}", target)
            except ObjectDamaged as error:
                raise Damaged(f"{file.path} has other bytes than the storage was given") from error
            if not is_there:
                raise Damaged(f"{file.path} is missing")
            _check(target, file)

    def remove_all_but(self, kept: Collection[str]) -> None:
        """Removes every other checkpoint, and what is left of those that were never completed."""
        paths: list[str] = []
        for name, files in self._listing().items():
            if name not in kept:
                # The manifest goes first: what is half removed is absent, not damaged.
                paths += [f"{self._folder(name)}/{file}" for file in sorted(files, key=lambda file: file != MANIFEST)]
        self.store.remove([path for path in paths if path.endswith(f"/{MANIFEST}")])
        self.store.remove([path for path in paths if not path.endswith(f"/{MANIFEST}")])

    def _listing(self) -> dict[str, set[str]]:
        """Files by checkpoint."""
        root = manifests.folder_of(self.run_id)
        found: dict[str, set[str]] = defaultdict(set)
        for path in self.store.paths(root):
            name, _, file = path.removeprefix(f"{root}/").partition("/")
            if file:
                found[name].add(file)
        return dict(found)

    def _folder(self, name: str) -> str:
        return f"{manifests.folder_of(self.run_id)}/{name}"


def step_of(name: str) -> int:
    """The step in a checkpoint's name; -1 in a name that is none."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isdigit() else -1


def _plain(path: str) -> str:
    """A path of a manifest, when it stays in the folder."""
    if path != Path(path).name:
        raise Damaged(f"{MANIFEST} names the file {path!r:.80}")
    return path


def _check(path: Path, file: artifact.AdapterFile) -> None:
    size = path.stat().st_size
    if size != file.size:
        raise Damaged(f"{file.path} has {size} bytes instead of {file.size}")
    with path.open("rb") as opened:
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise Damaged(f"{file.path} has another sha256 than its manifest says")
