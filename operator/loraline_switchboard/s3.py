"""Reads objects of S3, with the credentials of a mounted Secret, and says in a sentence why it could not.

Reading only. A client is made for each download, so that a rotated Secret is picked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loraline_api.conditions import Reason
from loraline_api.storage import Location
from loraline_switchboard.errors import Unavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK_BYTES = 1 << 20
DEFAULT_REGION = "us-east-1"
NOT_FOUND = frozenset({"NoSuchKey", "404", "NotFound"})
DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "XAdminUserNotFound",  # versitygw, for a key that it does not know
    }
)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How S3 is reached; `credentials` is a folder with one file per key, used when it is there."""

    endpoint: str | None
    region: str | None
    credentials: Path


def client(settings: S3Settings) -> S3Client:
    """A client. Without mounted keys the SDK's own chain finds the pod's identity.

    Raises:
        Unavailable: the settings make none.
    """
    from botocore.exceptions import BotoCoreError

    try:
        return _client(settings)
    except (BotoCoreError, ValueError) as error:
        raise Unavailable(
            Reason.STORAGE_UNAVAILABLE, f"S3 cannot be reached with these settings: {error}; correct spec.storage"
        ) from error


def _client(settings: S3Settings) -> S3Client:
    import boto3
    from botocore.config import Config

    def key(name: str) -> str | None:
        path = settings.credentials / name
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region or DEFAULT_REGION,
        aws_access_key_id=key("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=key("AWS_SECRET_ACCESS_KEY"),
        aws_session_token=key("AWS_SESSION_TOKEN"),
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 2},  # the caller retries with its own back-off
            s3={"addressing_style": "path"} if settings.endpoint else {},
        ),
    )


def read(s3: S3Client, where: Location, max_bytes: int) -> bytes:
    """The bytes of a small object.

    Raises:
        Unavailable: it could not be read, or has more than `max_bytes`.
    """
    with _told(where):
        answer = s3.get_object(Bucket=where.host, Key=where.path)
        if answer["ContentLength"] > max_bytes:
            raise Unavailable(
                Reason.ADAPTER_NOT_FOUND,
                f"{where} has {answer['ContentLength']} bytes, the limit is {max_bytes}; it is not what it is read as",
            )
        return answer["Body"].read()


def download(s3: S3Client, where: Location, path: Path) -> str:
    """Writes an object to a file and returns its sha256 in hex.

    Raises:
        Unavailable: it could not be read.
    """
    digest = hashlib.sha256()
    with _told(where):
        body = s3.get_object(Bucket=where.host, Key=where.path)["Body"]
        with path.open("wb") as file:
            for chunk in body.iter_chunks(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    return digest.hexdigest()


def keys(s3: S3Client, where: Location) -> list[str]:
    """The keys below a prefix.

    Raises:
        Unavailable: they could not be listed.
    """
    with _told(where):
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=where.host, Prefix=f"{where.path}/")
        return [item["Key"] for page in pages for item in page.get("Contents", ())]


@contextmanager
def _told(where: Location) -> Iterator[None]:
    """Turns the SDK's errors into `Unavailable`: each can be mended without touching the adapter."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        raise _from_answer(where, str(error.response.get("Error", {}).get("Code", ""))) from error
    except NoCredentialsError as error:
        raise Unavailable(
            Reason.ACCESS_DENIED,
            f"{where} cannot be read: the pod has no S3 credentials; name a Secret in spec.storage.secretRef",
        ) from error
    except (BotoCoreError, HTTPError) as error:
        raise Unavailable(
            Reason.STORAGE_UNAVAILABLE, f"{where} cannot be read now: {error}; it is tried again"
        ) from error


def _from_answer(where: Location, code: str) -> Unavailable:
    if code in NOT_FOUND:
        return Unavailable(
            Reason.ADAPTER_NOT_FOUND,
            f"{where} does not exist; publish the adapter again or name another one",
        )
    if code == "NoSuchBucket":
        return Unavailable(
            Reason.BUCKET_NOT_FOUND,
            f"bucket {where.host} of {where} does not exist; create it, or correct the URI or spec.storage.endpoint",
        )
    if code in DENIED:
        return Unavailable(
            Reason.ACCESS_DENIED,
            f"{where} cannot be read: S3 answered {code}; correct the Secret of spec.storage.secretRef or its rights",
        )
    return Unavailable(Reason.STORAGE_UNAVAILABLE, f"{where} cannot be read now: S3 answered {code}; it is tried again")
