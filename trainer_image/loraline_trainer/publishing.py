"""Publishes an adapter: its files under its version, the manifest after them, the run's record last.

Idempotent: what is there already with the same content is a success, so an attempt that died half-way is repeated
without harm. Layout: `loraline_api.artifact`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from loraline_api import artifact, run
from loraline_api.outcome import MetricResult
from loraline_trainer import __version__, errors
from loraline_trainer.storage.s3 import first_line
from loraline_trainer.storage.stores import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Published:
    """An adapter that is in the store."""

    manifest: artifact.AdapterManifest
    uri: str


def find(store: Store, run_id: str) -> Published | None:
    """The adapter of a run, when it was published before.

    Raises:
        InvalidSpec: the run's record is in the way of a new one: it is none, or its adapter is gone.
    """
    path = artifact.run_record(run_id)
    record = store.read(path)
    if record is None:
        return None
    try:
        manifest = artifact.AdapterManifest.model_validate_json(record)
    except ValueError as error:
        raise errors.InvalidSpec(
            f"{store.uri}/{path} is not the record of a run: {first_line(error)}; remove it"
        ) from error
    if store.read(artifact.adapter_manifest(manifest.version)) is None:
        raise errors.InvalidSpec(
            f"{store.uri}/{path} names the adapter {manifest.version}, whose manifest is gone; remove that record to "
            f"train again"
        )
    return Published(manifest, artifact.adapter_prefix(store.uri, manifest.version))


def check_writable(store: Store, run_id: str) -> None:
    """Raises what publishing would raise for want of rights, before anything is trained."""
    store.check_writable(artifact.run_record(run_id))


def manifest_of(
    recipe: run.Run,
    folder: Path,
    *,
    base_model: artifact.BaseModelIdentity,
    target_modules: list[str],
    metrics: list[MetricResult],
    dataset_digest: str,
) -> artifact.AdapterManifest:
    """The manifest of an exported adapter."""
    files = [
        artifact.AdapterFile(path=path.name, sha256=artifact.file_sha256(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
    ]
    return artifact.AdapterManifest(
        version=artifact.adapter_version({file.path: file.sha256 for file in files}),
        run_id=recipe.id,
        base_model=base_model,
        rank=recipe.adapter.rank,
        alpha=recipe.adapter.effective_alpha,
        target_modules=target_modules,
        files=files,
        metrics=metrics,
        dataset_digest=dataset_digest,
        trainer_version=__version__,
        created_at=datetime.now(UTC),
    )


def publish(store: Store, folder: Path, manifest: artifact.AdapterManifest) -> Published:
    """Puts the adapter into the store; when the run has one already, that one stays.

    Raises:
        InvalidSpec: a file of the adapter's name is there with another content.
    """
    for file in manifest.files:
        path = f"{artifact.adapter_folder(manifest.version)}/{file.path}"
        if not store.create(path, folder / file.path):
            _check_same(store, path, folder / file.path)
    text = manifest.model_dump_json(by_alias=True, exclude_none=True, indent=2).encode()
    store.create(artifact.adapter_manifest(manifest.version), text)
    while not store.create(artifact.run_record(manifest.run_id), text):
        first = find(store, manifest.run_id)
        if first is not None:  # else the record was removed just now
            log.info("run %s has the adapter %s already", manifest.run_id, first.manifest.version)
            return first
    log.info("published %s at %s", manifest.version, artifact.adapter_prefix(store.uri, manifest.version))
    return Published(manifest, artifact.adapter_prefix(store.uri, manifest.version))


def _check_same(store: Store, path: str, file: Path) -> None:
    if store.read(path) != file.read_bytes():
        raise errors.InvalidSpec(
            f"{store.uri}/{path} holds other bytes than its version says, so it was changed by hand; remove it"
        )
