"""Reads a LoraFineTune manifest and resolves it to a run, without a cluster.

ConfigMaps of the same file, or files named on the command line, stand for configmap:// datasets.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from loraline_api import API_VERSION, run, storage
from loraline_api.finetune import LoraFineTuneSpec, MemoryProfile
from loraline_trainer import errors

KIND = "LoraFineTune"


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a YAML file.

    Raises:
        InvalidSpec: it cannot be read.
    """
    try:
        return [document for document in yaml.safe_load_all(path.read_text()) if document]
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidSpec(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise errors.InvalidSpec(f"{path} is not YAML: {error}") from error


def resolve(path: Path, name: str | None, data: Mapping[str, Path], work: Path) -> tuple[run.Run, dict[str, Path]]:
    """The run of the manifest's fine-tune, and the files of its configmap:// datasets by part.

    Args:
        name: which fine-tune of the file, when there are several.
        data: files that stand for ConfigMap keys, by `configmap/key`.
        work: folder for the data of ConfigMaps of the manifest.

    Raises:
        InvalidSpec: the manifest is not valid.
        DatasetNotFound: a ConfigMap is neither in the file nor named.
    """
    documents = read(path)
    document = _finetune(documents, name, path)
    spec = _spec(document, path)
    config_maps = {item.get("metadata", {}).get("name"): item for item in documents if item.get("kind") == "ConfigMap"}
    files = {part: _data_file(part, location, config_maps, data, work) for part, location in _config_map_sources(spec)}
    metadata = document.get("metadata", {})
    recipe = run.resolve(
        str(metadata.get("name", "finetune")),
        str(metadata.get("namespace", "default")),
        spec,
        data_digests={part: hashlib.sha256(file.read_bytes()).hexdigest() for part, file in files.items()},
        restart=(metadata.get("annotations") or {}).get("loraline.dev/restart"),
    )
    return recipe, files


def memory_profile(path: Path, name: str | None) -> MemoryProfile:
    """The memory profile of the manifest's fine-tune: a setting, so no part of its run."""
    return _spec(_finetune(read(path), name, path), path).memory_profile


def _finetune(documents: list[dict[str, Any]], name: str | None, path: Path) -> dict[str, Any]:
    found = [document for document in documents if document.get("kind") == KIND]
    names = [str(document.get("metadata", {}).get("name")) for document in found]
    if name is not None:
        found = [document for document, its_name in zip(found, names, strict=True) if its_name == name]
    if len(found) != 1:
        wanted = f"no {KIND} of name {name}" if name is not None and names else f"{len(names)} objects of kind {KIND}"
        there = f" ({', '.join(names)})" if names else ""
        raise errors.InvalidSpec(f"{path} holds {wanted}{there}; one is run: name it with --name")
    if found[0].get("apiVersion") != API_VERSION:
        raise errors.InvalidSpec(
            f"{path}: apiVersion is {found[0].get('apiVersion')}; this program knows {API_VERSION}"
        )
    return found[0]


def _spec(document: dict[str, Any], path: Path) -> LoraFineTuneSpec:
    try:
        return LoraFineTuneSpec.model_validate(document.get("spec") or {})
    except pydantic.ValidationError as error:
        faults = [
            f"spec.{'.'.join(str(step) for step in fault['loc'])}: {fault['msg']} (got {fault['input']!r:.80})"
            for fault in error.errors()
        ]
        raise errors.InvalidSpec(f"{path}: {'; '.join(faults)}") from error


def _config_map_sources(spec: LoraFineTuneSpec) -> Iterator[tuple[str, storage.Location]]:
    for part, source in (("train", spec.dataset.train), ("eval", spec.dataset.eval)):
        if source is not None:
            location = storage.parse_uri(source.uri)
            if location.scheme is storage.Scheme.CONFIGMAP:
                yield part, location


def _data_file(
    part: str,
    location: storage.Location,
    config_maps: Mapping[Any, dict[str, Any]],
    data: Mapping[str, Path],
    work: Path,
) -> Path:
    named = data.get(f"{location.host}/{location.path}")
    if named is not None:
        return named
    config_map = config_maps.get(location.host, {})
    texts, binaries = config_map.get("data") or {}, config_map.get("binaryData") or {}
    if location.path in texts:
        content = str(texts[location.path]).encode()
    elif location.path in binaries:
        content = base64.b64decode(binaries[location.path])
    else:
        raise errors.DatasetNotFound(
            f"dataset.{part}.uri is {location}, and the manifest has no ConfigMap {location.host} with the key "
            f"{location.path}; add it to the file or name a file with --data {location.host}/{location.path}=FILE"
        )
    work.mkdir(parents=True, exist_ok=True)
    target = work / run.DATA_KEYS[part]
    target.write_bytes(content)
    return target
