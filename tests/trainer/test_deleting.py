"""`loraline-train delete` against a real S3: what the runs published goes, and what others need stays."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run as run_program

import boto3
import pytest

from cluster import fixture
from loraline_api import artifact, outcome
from loraline_api.outcome import ExitCode
from loraline_trainer import deleting
from trainer.builders import BUCKET

MINE, SHARED, OTHERS = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


@pytest.fixture
def root(tmp_path: Path, s3: fixture.S3Server) -> Path:
    """The file system of the pod, with the Secret of the S3 server mounted."""
    secret = tmp_path / "etc/loraline/secrets/output"
    secret.mkdir(parents=True)
    (secret / "AWS_ACCESS_KEY_ID").write_text(s3.access_key)
    (secret / "AWS_SECRET_ACCESS_KEY").write_text(s3.secret_key)
    (tmp_path / "dev").mkdir()
    return tmp_path


class Bucket:
    """A prefix of the bucket as the test sees it."""

    def __init__(self, server: fixture.S3Server, prefix: str) -> None:
        session = boto3.session.Session(server.access_key, server.secret_key, region_name="us-east-1")
        self._client = session.client("s3", endpoint_url=server.endpoint)
        self._prefix = prefix
        self.uri = f"s3://{BUCKET}/{prefix}"

    def put(self, path: str, text: str = "x") -> None:
        self._client.put_object(Bucket=BUCKET, Key=f"{self._prefix}/{path}", Body=text.encode())

    def publish(self, run_id: str, version: str) -> None:
        manifest = artifact.AdapterManifest(
            version=version,
            run_id=run_id,
            base_model=artifact.BaseModelIdentity(uri="hf://org/model", digest="d"),
            rank=8,
            alpha=16,
            target_modules=["q_proj"],
            files=[],
            trainer_version="1",
            created_at=datetime(2026, 11, 22, tzinfo=UTC),
        ).model_dump_json(by_alias=True)
        self.put(f"adapters/{version}/adapter_model.safetensors")
        self.put(f"adapters/{version}/manifest.json", manifest)
        self.put(f"runs/{run_id}.json", manifest)

    def paths(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self._prefix}/").get("Contents", [])
        return sorted(item["Key"].removeprefix(f"{self._prefix}/") for item in found)


@pytest.fixture
def bucket(s3: fixture.S3Server, tmp_path: Path) -> Bucket:
    """Two runs of ours, one of which made what another's run made too, and a run of somebody else."""
    made = Bucket(s3, tmp_path.name)
    made.publish("1111111111", MINE)
    made.publish("2222222222", SHARED)
    made.publish("3333333333", SHARED)
    made.publish("4444444444", OTHERS)
    made.put("checkpoints/1111111111/40-x/manifest.json")
    made.put("checkpoints/4444444444/40-x/manifest.json")
    made.put("notes.txt")
    return made


LEFT = [
    f"adapters/{SHARED}/adapter_model.safetensors",
    f"adapters/{SHARED}/manifest.json",
    f"adapters/{OTHERS}/adapter_model.safetensors",
    f"adapters/{OTHERS}/manifest.json",
    "checkpoints/4444444444/40-x/manifest.json",
    "notes.txt",
    "runs/3333333333.json",
    "runs/4444444444.json",
]


def said(root: Path) -> outcome.Outcome:
    found = outcome.parse_outcome((root / "dev/termination-log").read_text())
    assert found is not None
    return found


def test_adapters_records_and_checkpoints_of_the_runs_go_and_all_else_stays(
    bucket: Bucket, root: Path, s3: fixture.S3Server
) -> None:
    runs = {"1111111111": MINE, "2222222222": SHARED, "9999999999": None}
    for _ in range(2):  # a second attempt finds its work done
        assert deleting.main(bucket.uri, s3.endpoint, None, runs, root) == ExitCode.SUCCEEDED
        assert bucket.paths() == LEFT
    assert said(root).message.startswith("deleted ")


def test_a_run_whose_version_nobody_knows_is_found_by_its_record(
    bucket: Bucket, root: Path, s3: fixture.S3Server
) -> None:
    assert deleting.main(bucket.uri, s3.endpoint, None, {"1111111111": None, "2222222222": None}, root) == 0
    assert bucket.paths() == LEFT


def test_an_adapter_whose_record_went_with_an_earlier_attempt_is_found_by_its_version(
    bucket: Bucket, root: Path, s3: fixture.S3Server
) -> None:
    assert deleting.main(bucket.uri, s3.endpoint, None, {"1111111111": None}, root) == 0
    bucket.put(f"adapters/{MINE}/adapter_model.safetensors")
    assert deleting.main(bucket.uri, s3.endpoint, None, {"1111111111": MINE, "2222222222": SHARED}, root) == 0
    assert bucket.paths() == LEFT


def test_nothing_is_deleted_while_a_record_of_somebody_else_cannot_be_read(
    bucket: Bucket, root: Path, s3: fixture.S3Server
) -> None:
    bucket.put("runs/5555555555.json", "{")
    before = bucket.paths()
    assert deleting.main(bucket.uri, s3.endpoint, None, {"1111111111": MINE}, root) == ExitCode.INVALID_SPEC
    assert (bucket.paths(), "runs/5555555555.json is not the record of a run" in said(root).message) == (before, True)


def test_a_bucket_that_is_not_there_is_told(root: Path, s3: fixture.S3Server) -> None:
    assert deleting.main("s3://nowhere/x", s3.endpoint, None, {"1111111111": MINE}, root) == ExitCode.BUCKET_NOT_FOUND
    assert "nowhere" in said(root).message


def test_the_command_needs_no_torch() -> None:
    """Its pod has half a gigabyte of memory."""
    code = "import sys; from loraline_trainer import cli, deleting; print([m for m in sys.modules if m in {'torch', 'transformers'}])"  # noqa: E501
    done = run_program([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
