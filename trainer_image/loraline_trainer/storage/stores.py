"""Where adapters are published and training is saved: an S3 prefix, or a folder of this machine.

Both `create` a file once: a second writer is told that it is there. What must not last is written by `put`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from loraline_api import storage
from loraline_trainer import errors
from loraline_trainer.storage import s3
from loraline_trainer.storage.retries import Patience


class Store(Protocol):
    """A place for adapters; paths are relative to it."""

    @property
    def uri(self) -> str:
        """URI of the place."""
        ...

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, or None when there is none."""
        ...

    def create(self, path: str, content: bytes | Path) -> bool:
        """Writes a file; False when there is one already, which stays as it is."""
        ...

    def check_writable(self, path: str) -> None:
        """Raises what `create` would raise for want of rights."""
        ...

    def put(self, path: str, file: Path) -> None:
        """Writes a file of any size, complete or not at all; one that is there is replaced."""
        ...

    def fetch(self, path: str, target: Path) -> bool:
        """Copies a file to this machine; False when there is none.

        Raises:
            ObjectDamaged: the store knows that it lost some of its bytes.
        """
        ...

    def paths(self, below: str) -> list[str]:
        """The files whose paths begin with that folder's, sorted."""
        ...

    def remove(self, paths: Sequence[str]) -> None:
        """Removes files; those that are not there are no matter."""
        ...


@dataclass(frozen=True, slots=True)
class S3Store:
    """A prefix of a bucket."""

    uri: str
    access: s3.Access
    patience: Patience = field(default_factory=Patience)
    _bucket: s3.Bucket = field(init=False)
    _prefix: str = field(init=False)

    def __post_init__(self) -> None:
        location = storage.parse_uri(self.uri)
        object.__setattr__(self, "_bucket", s3.Bucket(location.host, self.access, self.patience))
        object.__setattr__(self, "_prefix", f"{location.path}/" if location.path else "")

    def read(self, path: str) -> bytes | None:
        try:
            return self._bucket.read(self._prefix + path)
        except s3.ObjectMissing:
            return None

    def create(self, path: str, content: bytes | Path) -> bool:
        try:
            self._bucket.create(self._prefix + path, content)
        except s3.ObjectTaken:
            return False
        return True

    def check_writable(self, path: str) -> None:
        self._bucket.check_writable(self._prefix + path)

    def put(self, path: str, file: Path) -> None:
        self._bucket.write(self._prefix + path, file)

    def fetch(self, path: str, target: Path) -> bool:
        try:
            self._bucket.download(self._prefix + path, target)
        except s3.ObjectMissing:
            return False
        return True

    def paths(self, below: str) -> list[str]:
        keys = self._bucket.keys(f"{self._prefix}{below}/")
        return sorted(key.removeprefix(self._prefix) for key in keys)

    def remove(self, paths: Sequence[str]) -> None:
        self._bucket.remove([self._prefix + path for path in paths])


@dataclass(frozen=True, slots=True)
class FolderStore:
    """A folder of this machine."""

    folder: Path

    @property
    def uri(self) -> str:
        return str(self.folder)

    def read(self, path: str) -> bytes | None:
        target = self.folder / path
        return target.read_bytes() if target.is_file() else None

    def create(self, path: str, content: bytes | Path) -> bool:
        target = self.folder / path
        self._make_folder(target.parent)
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            part = Path(file.name)
            file.write(content if isinstance(content, bytes) else content.read_bytes())
        try:
            part.chmod(0o644)
            os.link(part, target)  # atomic, and refused when the name is taken
        except FileExistsError:
            return False
        finally:
            part.unlink()
        return True

    def check_writable(self, path: str) -> None:
        self._make_folder((self.folder / path).parent)

    def put(self, path: str, file: Path) -> None:
        target = self.folder / path
        self._make_folder(target.parent)
        part = target.with_name(target.name + ".part")
        shutil.copyfile(file, part)
        part.replace(target)

    def fetch(self, path: str, target: Path) -> bool:
        source = self.folder / path
        if not source.is_file():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return True

    def paths(self, below: str) -> list[str]:
        files = (path for path in (self.folder / below).rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)

    def remove(self, paths: Sequence[str]) -> None:
        for path in paths:
            file = self.folder / path
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others' files keep their folder
                file.parent.rmdir()

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise errors.AccessDenied(
                f"the output folder {self.folder} cannot be written: {error.strerror}; name another one with --output"
            ) from error
