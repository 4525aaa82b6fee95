"""Fetches the base model and checks that it is one that can be tuned: a causal language model in safetensors.

Loading it is `loraline_trainer.model`'s work.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraline_api import artifact, run, storage
from loraline_trainer import errors, numbers
from loraline_trainer.places import Places
from loraline_trainer.storage import hub, s3

log = logging.getLogger(__name__)

SKIPPED_SUFFIXES = (".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
"""Weights in other formats that often lie beside the safetensors."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model on this machine.

    Attributes:
        name: what users call it: org/name on the Hub, else the URI.
        config: its config.json.
    """

    folder: Path
    name: str
    revision: str | None
    config: dict[str, Any]


def fetch(recipe: run.Run, places: Places, *, weights: bool = True) -> BaseModel:
    """The base model on this machine, checked.

    Args:
        weights: fetch the weights too; without them only tokenizer and config are there.

    Raises:
        BaseModelNotFound: it does not exist.
        BaseModelInvalid: it is no causal language model in safetensors.
    """
    source = recipe.base_model
    location = storage.parse_uri(source.uri)
    revision = None
    name = source.uri
    if location.scheme is storage.Scheme.HF:
        name = f"{location.host}/{location.path}"
        catalogue = hub.Hub(places.secret("base-model"), "baseModel", errors.BaseModelNotFound)
        folder, revision = catalogue.model(name, source.revision, weights=weights, code=source.trust_remote_code)
    elif location.scheme is storage.Scheme.S3:
        folder = _from_s3(recipe, location, places, weights=weights)
    else:
        folder = _from_claim(location, places)
    config = check(folder, source.uri, weights=weights)
    log.info("base model %s lies in %s", source.uri, folder)
    return BaseModel(folder, name, revision, config)


def identity(base: BaseModel, uri: str) -> artifact.BaseModelIdentity:
    """The identity that adapters of this base model carry."""
    return artifact.BaseModelIdentity(uri=uri, revision=base.revision, digest=artifact.base_model_digest(base.folder))


def _from_s3(recipe: run.Run, location: storage.Location, places: Places, *, weights: bool) -> Path:
    secret = places.secret("base-model") or places.secret("output")
    access = s3.Access(recipe.output.endpoint, recipe.output.region, secret, "baseModel")
    bucket = s3.Bucket(location.host, access)
    prefix = f"{location.path}/"
    objects = {
        key: size
        for key, size in bucket.keys(prefix).items()
        if not key.endswith(("/", *SKIPPED_SUFFIXES)) and (weights or not key.endswith(".safetensors"))
    }
    if not objects:
        raise errors.BaseModelNotFound(
            f"baseModel.uri {location} holds no files; upload the model's folder there or correct the URI"
        )
    log.info("fetching %d files, %s, of %s", len(objects), numbers.size(sum(objects.values())), location)
    folder = places.work / "base"
    for key, size in objects.items():
        target = folder / key.removeprefix(prefix)
        if not target.is_file() or target.stat().st_size != size:
            bucket.download(key, target)
    return folder


def _from_claim(location: storage.Location, places: Places) -> Path:
    root = places.claim(location.host)
    if root is None or not root.is_dir():
        raise errors.BaseModelNotFound(
            f"the claim {location.host} of baseModel.uri {location} is not mounted; outside a cluster name its "
            f"folder with --pvc {location.host}=FOLDER"
        )
    folder = root / location.path
    if not folder.is_dir():
        raise errors.BaseModelNotFound(
            f"baseModel.uri is {location}, and the claim {location.host} has no folder {location.path}; "
            f"correct the path"
        )
    return folder


def check(folder: Path, uri: str, *, weights: bool) -> dict[str, Any]:
    """The model's config.json, when the folder holds a model that can be tuned.

    Raises:
        BaseModelInvalid: it does not.
    """
    file = folder / "config.json"
    if not file.is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise errors.BaseModelInvalid(
            f"baseModel.uri {uri} has no config.json (it has: {there}); name a folder in Hugging Face format"
        )
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise errors.BaseModelInvalid(f"config.json of {uri} is not JSON: {error}; upload the model again") from error
    if weights and not any(folder.glob("*.safetensors")):
        raise errors.BaseModelInvalid(
            f"baseModel.uri {uri} has no *.safetensors file; convert its weights to safetensors, other formats may "
            f"carry code and are not read"
        )
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unnamed method")
        raise errors.BaseModelInvalid(
            f"baseModel.uri {uri} is quantized already ({method}); name the 16-bit model, "
            f"quantization is done on loading"
        )
    architectures = config.get("architectures") or []
    if not any("CausalLM" in name or "LMHead" in name for name in architectures):
        raise errors.BaseModelInvalid(
            f"baseModel.uri {uri} is a {', '.join(architectures) or 'model of no named architecture'}; "
            f"fine-tuning needs a causal language model, as in LlamaForCausalLM"
        )
    return config  # type: ignore[no-any-return]
