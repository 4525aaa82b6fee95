"""Fetches the file or the rows of a dataset. Reading and checking them is `loraline_trainer.data`'s work."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from loraline_api import finetune, run, storage
from loraline_trainer import __version__, errors
from loraline_trainer.places import Places
from loraline_trainer.storage import hub, s3
from loraline_trainer.storage.retries import Passing, Patience


def fetch(recipe: run.Run, part: str, source: finetune.DatasetSource, places: Places) -> Path | list[dict[str, Any]]:
    """The file of a dataset, or its rows when it comes from the Hub.

    Args:
        part: `train` or `eval`.

    Raises:
        DatasetNotFound: it does not exist.
    """
    location = storage.parse_uri(source.uri)
    match location.scheme:
        case storage.Scheme.HF:
            catalogue = hub.Hub(places.secret(part), f"dataset.{part}", errors.DatasetNotFound)
            name = f"{location.host}/{location.path}"
            return catalogue.dataset(name, source.revision, source.split or "train")
        case storage.Scheme.S3:
            return _from_s3(recipe, part, source, location, places)
        case storage.Scheme.PVC:
            return _from_claim(part, location, places)
        case storage.Scheme.HTTPS:
            target = _target(part, location, places)
            Patience().keep_trying(lambda: download(source.uri, target, f"dataset.{part}.uri"))
            return target
        case storage.Scheme.CONFIGMAP:
            return _from_snapshot(part, location, places)


def _from_s3(
    recipe: run.Run, part: str, source: finetune.DatasetSource, location: storage.Location, places: Places
) -> Path:
    access = s3.Access(
        endpoint=source.endpoint or recipe.output.endpoint,
        region=source.region or recipe.output.region,
        secret=places.secret(part) or places.secret("output"),
        field_name=f"dataset.{part}",
    )
    target = _target(part, location, places)
    try:
        s3.Bucket(location.host, access).download(location.path, target)
    except s3.ObjectMissing as error:
        raise errors.DatasetNotFound(
            f"dataset.{part}.uri is {location}, and the bucket {location.host} has no object {location.path}; "
            f"upload it or correct the URI"
        ) from error
    return target


def _from_claim(part: str, location: storage.Location, places: Places) -> Path:
    root = places.claim(location.host)
    if root is None or not root.is_dir():
        raise errors.DatasetNotFound(
            f"the claim {location.host} of dataset.{part}.uri {location} is not mounted; outside a cluster name its "
            f"folder with --pvc {location.host}=FOLDER"
        )
    file = root / location.path
    if not file.is_file():
        raise errors.DatasetNotFound(
            f"dataset.{part}.uri is {location}, and the claim {location.host} has no file {location.path}; "
            f"correct the path"
        )
    return file


def _from_snapshot(part: str, location: storage.Location, places: Places) -> Path:
    file = places.data.get(part)
    if file is None or not file.is_file():
        raise errors.DatasetNotFound(
            f"dataset.{part}.uri is {location}, and its data is not there; outside a cluster put the ConfigMap into "
            f"the manifest or name a file with --data {location.host}/{location.path}=FILE"
        )
    return file


def _target(part: str, location: storage.Location, places: Places) -> Path:
    folder = places.work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{part}-{location.path.rpartition('/')[2].partition('?')[0]}"


def download(url: str, target: Path, field_name: str) -> None:
    """Writes what a URL answers with to a file.

    Raises:
        DatasetNotFound: there is no such page.
        AccessDenied: the server wants credentials.
        Passing: the server is not in reach or in trouble, or broke off.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"loraline-train/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer, target.open("wb") as file:
            while chunk := answer.read(1 << 20):
                file.write(chunk)
            announced, got = answer.headers.get("Content-Length"), file.tell()
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise errors.DatasetNotFound(f"{field_name} is {url}, which answers {error.code}; correct it") from error
        if error.code in (401, 403):
            raise errors.AccessDenied(
                f"{field_name} is {url}, which answers {error.code}; https:// sources must be readable by anyone, "
                f"use s3:// with a Secret for others"
            ) from error
        raise Passing(f"{url} answered {error.code}") from error
    except (OSError, http.client.HTTPException) as error:
        raise Passing(f"{url} did not answer: {s3.first_line(error)}") from error
    if announced is not None and got != int(announced):  # http.client takes a lost connection for the end
        raise Passing(f"{url} announced {announced} bytes and sent {got}")
