"""`loraline-train delete`: deletes what runs published, in the pod that a fine-tune's deletion starts.

What another run's record names stays. Idempotent: a second attempt deletes what the first one did not come to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from loraline_api import artifact, pods
from loraline_api.outcome import MAX_MESSAGE_CHARS, ExitCode, Outcome
from loraline_trainer import errors, places
from loraline_trainer.storage import s3
from loraline_trainer.storage.stores import S3Store, Store

log = logging.getLogger(__name__)

Runs = Mapping[str, str | None]
"""The version of each run; None where it is not known or none was published."""


def main(uri: str, endpoint: str | None, region: str | None, runs: Runs, root: Path = Path("/")) -> int:
    """Deletes the output of the runs and returns the exit code.

    Args:
        uri: output.uri of the fine-tune.
        root: folder that stands for the pod's root folder.
    """
    access = s3.Access(endpoint, region, places.in_pod(root).secret("output"), "output")
    try:
        versions = delete(S3Store(uri, access), runs)
    except errors.TrainerError as error:
        code, message = error.exit_code, str(error)
    except Exception as error:
        log.exception("an unexpected error")
        code, message = ExitCode.UNEXPECTED_ERROR, f"{type(error).__name__}: {s3.first_line(error)}"
    else:
        code, message = ExitCode.SUCCEEDED, f"deleted {', '.join(versions) or 'no adapter'} of {len(runs)} runs"
    log.info("ended with %s: %s", code.name, message)
    outcome = Outcome(run_id="", exit_code=code, message=message[:MAX_MESSAGE_CHARS])
    (root / str(pods.TERMINATION_LOG).lstrip("/")).write_bytes(outcome.encode())
    return code


def delete(store: Store, runs: Runs) -> list[str]:
    """Deletes records, checkpoints and adapters of the runs; returns the versions that went.

    A record goes before its adapter, so that no run ever finds an adapter that is half gone.

    Raises:
        InvalidSpec: another run's record cannot be read, so what it names is not known.
    """
    versions = set(runs.values()) - {None}
    kept: set[str | None] = set()
    for path in store.paths("runs"):
        run_id = path.removeprefix("runs/").removesuffix(".json")
        if run_id in runs:
            versions |= {_version(store, path, is_ours=True)}
        else:
            kept |= {_version(store, path, is_ours=False)}
    store.remove([artifact.run_record(run_id) for run_id in runs])
    gone = sorted(version for version in versions - kept if version is not None)
    for version in gone:
        store.remove([artifact.adapter_manifest(version)])
        store.remove(store.paths(artifact.adapter_folder(version)))
    for run_id in runs:
        store.remove(store.paths(f"checkpoints/{run_id}"))
    return gone


def _version(store: Store, path: str, *, is_ours: bool) -> str | None:
    """The version that a run's record names; None when the record is gone, or is ours and none that can be read."""
    text = store.read(path)
    if text is None:
        return None
    try:
        return artifact.AdapterManifest.model_validate_json(text).version
    except ValueError as error:
        if is_ours:
            return None
        raise errors.InvalidSpec(
            f"{store.uri}/{path} is not the record of a run, so nothing tells which adapter it needs: "
            f"{s3.first_line(error)}; remove it and delete the rest by hand"
        ) from error
