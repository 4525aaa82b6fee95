"""How the base model comes from S3 before vLLM starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from loraline_api import artifact
from loraline_switchboard import main
from switchboard.harness import ACCESS, BUCKET, S3, SECRET


def arguments(s3: S3, uri: str, folder: Path) -> list[str]:
    """The command line that the operator gives."""
    secret = folder / "secrets/storage"
    secret.mkdir(parents=True, exist_ok=True)
    (secret / "AWS_ACCESS_KEY_ID").write_text(ACCESS)
    (secret / "AWS_SECRET_ACCESS_KEY").write_text(SECRET)
    where = ["--endpoint", s3.endpoint, "--secrets", str(folder / "secrets"), "--to", str(folder / "model")]
    return ["fetch-base", "--uri", uri, *where]


def test_a_model_of_s3_is_the_same_on_disk(s3: S3, base: Path, tmp_path: Path) -> None:
    for path in base.iterdir():
        s3.client.upload_file(str(path), BUCKET, f"models/tiny/{path.name}")
    assert main.main(arguments(s3, f"s3://{BUCKET}/models/tiny", tmp_path)) == 0
    assert artifact.base_model_digest(tmp_path / "model") == artifact.base_model_digest(base)


def test_a_model_that_is_there_is_not_fetched_again(s3: S3, base: Path, tmp_path: Path) -> None:
    for path in base.iterdir():
        s3.client.upload_file(str(path), BUCKET, f"models/once/{path.name}")
    command = arguments(s3, f"s3://{BUCKET}/models/once", tmp_path)
    assert main.main(command) == 0
    for path in base.iterdir():
        s3.client.delete_object(Bucket=BUCKET, Key=f"models/once/{path.name}")
    assert main.main(command) == 0


def test_a_model_that_does_not_exist_is_named(s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main.main(arguments(s3, f"s3://{BUCKET}/models/none", tmp_path)) == 1
    assert f"s3://{BUCKET}/models/none holds no object; correct spec.baseModel.uri" in caplog.text


def test_a_bucket_that_does_not_exist_is_named(s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main.main(arguments(s3, "s3://nowhere/models", tmp_path)) == 1
    assert "bucket nowhere of s3://nowhere/models does not exist; create it" in caplog.text


def test_wrong_credentials_are_named(s3: S3, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = arguments(s3, f"s3://{BUCKET}/models/tiny", tmp_path)
    (tmp_path / "secrets/storage/AWS_SECRET_ACCESS_KEY").write_text("wrong")
    assert main.main(command) == 1
    assert "cannot be read: S3 answered SignatureDoesNotMatch; correct the Secret" in caplog.text
