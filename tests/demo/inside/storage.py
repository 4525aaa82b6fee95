"""Runs in the demo's client pod: makes buckets, takes a folder in, and lists what lies below a prefix.

    storage.py bucket NAME...          makes the buckets that are not there
    storage.py upload BUCKET PREFIX    stores the files of the tar stream on stdin
    storage.py list BUCKET PREFIX      prints size and key of every object

It runs from its text (`python3 -c`), so it imports nothing of ours.
"""

from __future__ import annotations

import os
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, cast

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

SECRET = Path("/secrets/adapter-storage")
s3 = boto3.client(
    "s3",
    endpoint_url=os.environ["S3_ENDPOINT"],
    region_name="us-east-1",
    aws_access_key_id=(SECRET / "AWS_ACCESS_KEY_ID").read_text(),
    aws_secret_access_key=(SECRET / "AWS_SECRET_ACCESS_KEY").read_text(),
)


class Unseekable:
    """A file of a stream: boto3 asks whether it can seek, and a tar stream has no answer."""

    def __init__(self, file: IO[bytes]) -> None:
        self.read = file.read


def await_service(limit_s: float = 60) -> None:
    """Waits until the Service answers: its rules reach a node a moment after its pod is ready."""
    end = time.monotonic() + limit_s
    while True:
        try:
            s3.list_buckets()
        except EndpointConnectionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
        else:
            return


match sys.argv[1:]:
    case ["bucket", *names]:
        await_service()
        for name in names:
            try:
                s3.create_bucket(Bucket=name)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise
    case ["upload", bucket, prefix]:
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is not None:
                    stream = cast("IO[bytes]", Unseekable(content))
                    s3.upload_fileobj(stream, bucket, f"{prefix}/{Path(member.name).name}")
    case ["list", bucket, prefix]:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                print(item["Size"], item["Key"])
    case other:
        sys.exit(f"storage.py knows bucket, upload and list, not: {other}")
