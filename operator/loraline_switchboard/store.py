"""Keeps adapter versions on the pod's disk, each in a folder of its own that is complete and verified, or absent.

A folder's name is the version, which is the digest of its bytes: a path never means other bytes. Blocking: callers run
it in threads.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from loraline_api import artifact, storage
from loraline_api.artifact import AdapterManifest
from loraline_api.conditions import Reason
from loraline_switchboard import s3
from loraline_switchboard.errors import Rejected, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_MANIFEST_BYTES = 1 << 20
PARTIAL = ".partial-"


class AdapterStore:
    """The versions below one folder."""

    def __init__(self, folder: Path, connect: Callable[[], S3Client]) -> None:
        self._folder = folder
        self._connect = connect
        self._fetches: dict[str, threading.Lock] = {}  # by version
        for leftover in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(leftover)

    def path(self, version: str) -> Path:
        """The folder of a version, whether it is there or not."""
        return self._folder / version

    def versions(self) -> set[str]:
        """The versions that are there."""
        return {path.name for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(PARTIAL)}

    def fetch(self, version: str, uri: str) -> AdapterManifest:
        """Makes the version's folder, if it is not there, and verifies every file of it; one call a version at a time.

        Raises:
            Rejected: its bytes are not those of this version.
            Unavailable: S3 or the disk cannot give or take them now.
        """
        try:
            with self._fetches.setdefault(version, threading.Lock()):
                if self.path(version).exists():
                    return self._verified(version, uri)
                return self._download(version, uri)
        except OSError as error:
            raise Unavailable(
                Reason.STORAGE_UNAVAILABLE, f"adapter {version} cannot be kept in {self._folder}: {error}"
            ) from error

    def remove(self, version: str) -> None:
        """Removes the folder of a version. The engine must have forgotten it: it re-reads evicted adapters."""
        shutil.rmtree(self.path(version), ignore_errors=True)

    def _verified(self, version: str, uri: str) -> AdapterManifest:
        manifest = _manifest((self.path(version) / artifact.MANIFEST).read_bytes(), version, uri)
        for file in manifest.files:
            _same_digest(file, artifact.file_sha256(self.path(version) / file.path), uri)
        return manifest

    def _download(self, version: str, uri: str) -> AdapterManifest:
        client = self._connect()
        text = s3.read(client, storage.parse_uri(f"{uri}/{artifact.MANIFEST}"), MAX_MANIFEST_BYTES)
        manifest = _manifest(text, version, uri)
        partial = self._folder / f"{PARTIAL}{version}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o755)
        try:
            for file in manifest.files:
                path = partial / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                _same_digest(file, s3.download(client, storage.parse_uri(f"{uri}/{file.path}"), path), uri)
                _sync(path)
            (partial / artifact.MANIFEST).write_bytes(text)
            _sync(partial / artifact.MANIFEST)
            partial.rename(self.path(version))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _sync(self._folder)
        return manifest


def _manifest(text: bytes, version: str, uri: str) -> AdapterManifest:
    try:
        manifest = AdapterManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Rejected(
            Reason.ADAPTER_INVALID,
            f"{uri}/{artifact.MANIFEST} is no manifest: {first['msg']} at {'.'.join(map(str, first['loc']))}; "
            "publish the adapter again",
        ) from error
    for file in manifest.files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or file.path in ("", artifact.MANIFEST):
            raise Rejected(
                Reason.ADAPTER_INVALID, f"{uri}: the manifest names file `{file.path}` outside of its folder"
            )
    found = artifact.adapter_version({file.path: file.sha256 for file in manifest.files})
    if found != version or manifest.version != version:
        raise Rejected(
            Reason.DIGEST_MISMATCH,
            f"{uri}: the manifest describes version {found}, not {version}; it was changed after publishing, "
            "so publish the adapter again",
        )
    return manifest


def _same_digest(file: artifact.AdapterFile, found: str, uri: str) -> None:
    if found != file.sha256:
        raise Rejected(
            Reason.DIGEST_MISMATCH,
            f"{uri}/{file.path} has sha256 {found[:12]}..., the manifest says {file.sha256[:12]}...; "
            "it was changed or cut after publishing, so publish the adapter again",
        )


def _sync(path: Path) -> None:
    """Makes a file or folder durable, so that a name that was renamed into place never holds less than its bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
