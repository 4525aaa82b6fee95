"""S3: reading, listing and conditional writing, with every failure turned into one of ours.

Credentials come from a mounted Secret, or else from the SDK's default chain (IRSA, workload identity).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import boto3
import boto3.s3.transfer
import botocore.config
import botocore.exceptions

from loraline_trainer import __version__, errors
from loraline_trainer.storage.retries import Passing, Patience

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

T = TypeVar("T")

SECRET_KEYS = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}
DEFAULT_REGION = "us-east-1"

DENIED = frozenset(
    {
        "AccessDenied",
        "AllAccessDisabled",
        "AccountProblem",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnauthorizedAccess",
        "401",
        "403",
        "XAdminUserNotFound",  # versitygw, for a key that it does not know
    }
)
ABSENT = frozenset({"NoSuchKey", "NotFound", "404"})
TAKEN = frozenset({"PreconditionFailed", "412"})
PASSING = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "429",
    }
)
"""Error codes of S3's REST API ("List of error codes"), and bare HTTP statuses where a server sends no code."""


MOST_KEYS = 1000
"""Keys of one DeleteObjects request (S3's REST API)."""

ONE_PART_AT_A_TIME = boto3.s3.transfer.TransferConfig(
    multipart_threshold=64 << 20, multipart_chunksize=64 << 20, use_threads=False
)
"""Uploads beside training: they need not be fast, and 64 MiB parts carry 640 GB."""


class ObjectMissing(Exception):
    """There is no object of that key; callers know what that means."""


class ObjectDamaged(errors.StorageUnavailable):
    """The service sent other bytes than the checksum that it keeps of the object: its disk lost some."""


class ObjectTaken(Exception):
    """A conditional put found an object there already."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an S3 service.

    Attributes:
        secret: folder with one file per key of `SECRET_KEYS`, or None for the SDK's default chain.
        field_name: field of the recipe that the user mends when access fails, as in `output`.
    """

    endpoint: str | None
    region: str | None
    secret: Path | None
    field_name: str

    def credentials(self) -> dict[str, str]:
        """Arguments of a boto3 session.

        Raises:
            AccessDenied: the Secret lacks a key.
        """
        if self.secret is None:
            return {}
        found = {
            argument: (self.secret / key).read_text().strip()
            for argument, key in SECRET_KEYS.items()
            if (self.secret / key).is_file()
        }
        for argument in ("aws_access_key_id", "aws_secret_access_key"):
            if argument not in found:
                there = ", ".join(sorted(path.name for path in self.secret.iterdir() if not path.name.startswith(".")))
                raise errors.AccessDenied(
                    f"the Secret of {self.field_name}.secretRef has no key {SECRET_KEYS[argument]} "
                    f"(it has: {there or 'none'}); add it"
                )
        return found


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket of an S3 service."""

    name: str
    access: Access
    patience: Patience = field(default_factory=Patience)
    client: S3Client = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "client", _client(self.access))

    def read(self, key: str) -> bytes:
        """The bytes of an object.

        Raises:
            ObjectMissing: there is none of that key.
        """

        def get() -> bytes:
            return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

        return self._call(key, get)

    def download(self, key: str, target: Path) -> None:
        """Writes an object to a file, complete or not at all.

        Raises:
            ObjectMissing: there is none of that key.
        """
        part = target.with_name(target.name + ".part")

        def get() -> None:
            body = self.client.get_object(Bucket=self.name, Key=key)["Body"]
            with part.open("wb") as file:
                for chunk in body.iter_chunks(1 << 20):
                    file.write(chunk)

        target.parent.mkdir(parents=True, exist_ok=True)
        self._call(key, get)
        part.replace(target)

    def keys(self, prefix: str) -> Mapping[str, int]:
        """Sizes in bytes of the objects whose key begins with the prefix, by key."""

        def listing() -> Iterator[tuple[str, int]]:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for item in page.get("Contents", []):
                    yield item["Key"], item["Size"]

        return self._call(prefix, lambda: dict(listing()))

    def create(self, key: str, content: bytes | Path) -> None:
        """Writes an object that must not be there yet; the service checks its sha256.

        Raises:
            ObjectTaken: there is one of that key.
        """
        digest = base64.b64encode(_sha256(content)).decode()

        def put() -> None:
            if isinstance(content, bytes):
                self._put(key, content, digest)
            else:
                with content.open("rb") as file:
                    self._put(key, file, digest)

        self._call(key, put)

    def write(self, key: str, file: Path) -> None:
        """Writes an object, in parts when it is large; one of that key is replaced. The service checks each sha256."""

        def put() -> None:
            self.client.upload_file(
                str(file), self.name, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"}, Config=ONE_PART_AT_A_TIME
            )

        self._call(key, put)

    def remove(self, keys: Sequence[str]) -> None:
        """Removes objects; those that are not there are no matter."""
        for begin in range(0, len(keys), MOST_KEYS):
            part = keys[begin : begin + MOST_KEYS]

            def delete(part: Sequence[str] = part) -> None:
                answer = self.client.delete_objects(
                    Bucket=self.name, Delete={"Objects": [{"Key": key} for key in part], "Quiet": True}
                )
                for fault in answer.get("Errors", []):
                    raise botocore.exceptions.ClientError({"Error": fault}, "DeleteObjects")

            self._call(part[0], delete)

    def check_writable(self, key: str) -> None:
        """Raises what a later `create` of the key would raise for want of rights. Leaves nothing behind.

        A multipart upload that is begun and aborted needs the right to write, and makes no object.
        """

        def begin_and_abort() -> None:
            upload = self.client.create_multipart_upload(Bucket=self.name, Key=key)["UploadId"]
            self.client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload)

        self._call(key, begin_and_abort)

    def _put(self, key: str, body: object, digest: str) -> None:
        self.client.put_object(
            Bucket=self.name,
            Key=key,
            Body=body,  # type: ignore[arg-type]  # bytes or a binary file
            IfNoneMatch="*",
            ChecksumSHA256=digest,
        )

    def _call(self, key: str, operation: Callable[[], T]) -> T:
        return self.patience.keep_trying(lambda: self._once(key, operation))

    def _once(self, key: str, operation: Callable[[], T]) -> T:
        where = f"s3://{self.name}/{key}"
        server = self.access.endpoint or "AWS"
        name = self.access.field_name
        try:
            return operation()
        except botocore.exceptions.ClientError as error:
            raise self._classified(error, where) from error
        except (botocore.exceptions.NoCredentialsError, botocore.exceptions.PartialCredentialsError) as error:
            raise errors.AccessDenied(
                f"no S3 credentials for {where}: {name}.secretRef is not set and the pod has no identity of its own; "
                f"name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in {name}.secretRef"
            ) from error
        except botocore.exceptions.ParamValidationError as error:
            raise errors.InvalidSpec(f"{name} names {where}, which S3 cannot read: {first_line(error)}") from error
        except botocore.exceptions.FlexibleChecksumError as error:
            raise ObjectDamaged(f"{where} has other bytes than its checksum at {server} says; write it anew") from error
        except boto3.exceptions.S3UploadFailedError as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, botocore.exceptions.ClientError):
                raise self._classified(cause, where) from error
            raise Passing(f"{server} did not take {where}: {first_line(error)}") from error
        except (botocore.exceptions.BotoCoreError, ConnectionError, TimeoutError) as error:
            raise Passing(f"{server} did not answer for {where}: {first_line(error)}") from error

    def _classified(self, error: botocore.exceptions.ClientError, where: str) -> Exception:
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = str(error.response.get("Error", {}).get("Message", "")) or "no reason given"
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        server, name = self.access.endpoint or "AWS", self.access.field_name
        if code == "NoSuchBucket":
            return errors.BucketNotFound(
                f"the bucket {self.name} of {name}.uri does not exist at {server}; create it or correct {name}.uri"
            )
        if code in ABSENT:
            return ObjectMissing(where)
        if code in TAKEN:
            return ObjectTaken(where)
        if code in DENIED or status in (401, 403):
            return errors.AccessDenied(
                f"{server} denies access to {where} ({code}: {said}); check the credentials in the Secret of "
                f"{name}.secretRef and that they may read, list and write there"
            )
        if code in PASSING or status >= 500:
            return Passing(f"{server} answered {where} with {code or status} ({said})")
        return errors.InvalidSpec(
            f"{server} refuses {where} with {code or status} ({said}); check {name}.uri, "
            f"{name}.endpoint and {name}.region"
        )


def _client(access: Access) -> S3Client:
    session = boto3.session.Session(region_name=access.region or DEFAULT_REGION, **access.credentials())  # type: ignore[arg-type]
    config = botocore.config.Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 1},  # `Patience` tries again, and says so
        s3={"addressing_style": "path" if access.endpoint else "auto"},
        user_agent_extra=f"loraline-train/{__version__}",
    )
    return session.client("s3", endpoint_url=access.endpoint, config=config)


def _sha256(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type when it has none; at most 300 characters."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
