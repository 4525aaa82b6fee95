"""Brings the base model of hf:// or s3:// into a folder, once, before the engine starts.

pvc:// models are mounted and read where they are. A folder that was completed before is left as it is.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from loraline_api import storage
from loraline_api.conditions import Reason
from loraline_api.storage import Location, Scheme
from loraline_switchboard import s3
from loraline_switchboard.errors import Unavailable

log = logging.getLogger("loraline.switchboard")

COMPLETE = ".loraline-complete"
"""Name of the file that says which URI the folder holds whole."""

HF_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*"]
"""Files of a model repository that vLLM reads; other frameworks' weights are left there."""


def fetch(uri: str, revision: str | None, to: Path, settings: s3.S3Settings, hf_token: str | None) -> None:
    """Makes the folder hold the model.

    Raises:
        Unavailable: it cannot be read, with the reason.
    """
    source = f"{uri}@{revision or ''}"
    mark = to / COMPLETE
    if mark.is_file() and mark.read_text(encoding="utf-8") == source:
        log.info("%s is in %s already", uri, to)
        return
    if to.exists():
        for child in to.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    to.mkdir(parents=True, exist_ok=True)
    where = storage.parse_uri(uri)
    if where.scheme is Scheme.HF:
        _from_hub(where, revision, to, hf_token)
    else:
        _from_s3(where, to, settings)
    if not (to / "config.json").is_file():
        raise Unavailable(Reason.BASE_MODEL_INVALID, f"{uri} holds no config.json; name a model in Hugging Face format")
    mark.write_text(source, encoding="utf-8")
    log.info("fetched %s into %s", uri, to)


def _from_hub(where: Location, revision: str | None, to: Path, token: str | None) -> None:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name = f"{where.host}/{where.path}"
    try:
        huggingface_hub.snapshot_download(
            name, revision=revision, local_dir=to, token=token, allow_patterns=HF_PATTERNS
        )
    except HfHubHTTPError as error:
        raise Unavailable(
            Reason.BASE_MODEL_NOT_FOUND,
            f"{where} at revision {revision or 'main'} is not readable: {_one_line(error)}; "
            "correct spec.baseModel, or name a Secret with HF_TOKEN in spec.baseModel.secretRef",
        ) from error
    except OSError as error:
        raise Unavailable(Reason.STORAGE_UNAVAILABLE, f"{where} cannot be read now: {_one_line(error)}") from error


def _from_s3(where: Location, to: Path, settings: s3.S3Settings) -> None:
    client = s3.client(settings)
    found = s3.keys(client, where)
    if not found:
        raise Unavailable(Reason.BASE_MODEL_NOT_FOUND, f"{where} holds no object; correct spec.baseModel.uri")
    for key in found:
        relative = key.removeprefix(f"{where.path}/")
        path = Path(os.path.normpath(to / relative))
        if not relative or relative.endswith("/") or not path.is_relative_to(to):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        s3.download(client, Location(Scheme.S3, where.host, key), path)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
