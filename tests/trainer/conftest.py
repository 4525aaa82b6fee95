"""A tiny real model and a real S3 for the tests of the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cluster import fixture
from tools import tiny_model
from trainer.builders import BUCKET, Pod, sums


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with tokenizer and chat template."""
    return tiny_model.write_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fixture.S3Server]:
    """An S3 server with one bucket."""
    with fixture.s3_server(tmp_path_factory.mktemp("s3")) as server:
        session = boto3.session.Session(server.access_key, server.secret_key, region_name="us-east-1")
        session.client("s3", endpoint_url=server.endpoint).create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture
def pod(tmp_path: Path, base: Path, s3: fixture.S3Server) -> Pod:
    """A training pod's file system, with the model on a claim and the Secret of the S3 server mounted."""
    return Pod(tmp_path / "pod", base, s3)


@pytest.fixture(scope="session")
def lines() -> str:
    """Forty sums as prompt and completion."""
    return sums()
