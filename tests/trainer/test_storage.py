"""Stores: conditional writes, outages and wrong names, against a real S3 and a folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from cluster import fixture
from loraline_trainer import errors
from loraline_trainer.storage import s3 as s3_storage
from loraline_trainer.storage import stores
from loraline_trainer.storage.retries import Patience
from trainer.builders import BUCKET

SHORT = Patience(limit_s=0.3, first_s=0.1)


def access(server: fixture.S3Server, folder: Path, endpoint: str | None = None) -> s3_storage.Access:
    secret = folder / "secret"
    secret.mkdir(exist_ok=True)
    (secret / "AWS_ACCESS_KEY_ID").write_text(server.access_key + "\n")
    (secret / "AWS_SECRET_ACCESS_KEY").write_text(server.secret_key + "\n")
    return s3_storage.Access(endpoint or server.endpoint, None, secret, "output")


@pytest.fixture(params=["S3", "folder"])
def store(request: pytest.FixtureRequest, s3: fixture.S3Server, tmp_path: Path) -> stores.Store:
    """An empty store of either kind."""
    if request.param == "folder":
        return stores.FolderStore(tmp_path / "out")
    return stores.S3Store(f"s3://{BUCKET}/{tmp_path.name}", access(s3, tmp_path), SHORT)


def test_the_first_writer_wins_and_the_second_is_told(store: stores.Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"second")
    assert store.create("a/b.txt", b"first")
    assert not store.create("a/b.txt", file)
    assert store.read("a/b.txt") == b"first"


def test_what_is_not_there_is_none(store: stores.Store) -> None:
    assert store.read("a/none.txt") is None


def test_asking_whether_one_may_write_leaves_nothing(store: stores.Store) -> None:
    store.check_writable("runs/x.json")
    assert store.read("runs/x.json") is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.AccessDenied, match="cannot be written: Not a directory; name another one with --output"):
        stores.FolderStore(tmp_path / "file").check_writable("runs/x.json")


def test_an_endpoint_that_is_down_is_asked_again_and_then_told(s3: fixture.S3Server, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{fixture.free_port()}"
    patience = Patience(limit_s=10, sleep=lambda pause: None, clock=lambda: 0.0)  # pauses of 1, 2, 4 and 8 s
    store = stores.S3Store(f"s3://{BUCKET}/team", access(s3, tmp_path, endpoint), patience)
    with pytest.raises(errors.StorageUnavailable) as caught:
        store.read("runs/x.json")
    assert f"{endpoint} did not answer for s3://{BUCKET}/team/runs/x.json" in str(caught.value)
    assert "tried 5 times" in str(caught.value)


def test_an_outage_that_ends_in_time_is_survived(tmp_path: Path) -> None:
    folder, port = tmp_path / "s3", fixture.free_port()
    with fixture.s3_server(folder, port) as server:
        (server.data / "bucket").mkdir()
        (server.data / "bucket" / "x").write_bytes(b"data")
        where = access(server, tmp_path)
    tries: list[float] = []
    with contextlib.ExitStack() as running:

        def back_after_two(pause: float) -> None:
            tries.append(pause)
            if len(tries) == 2:
                running.enter_context(fixture.s3_server(folder, port))

        bucket = s3_storage.Bucket("bucket", where, Patience(sleep=back_after_two))
        assert bucket.read("x") == b"data"
    assert tries == [1.0, 2.0]


def test_no_credentials_at_all_are_told(s3: fixture.S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    bucket = s3_storage.Bucket(BUCKET, s3_storage.Access(s3.endpoint, None, None, "output"), SHORT)
    with pytest.raises(errors.AccessDenied, match=r"no S3 credentials .*output.secretRef is not set"):
        bucket.read("x")


def test_a_download_is_complete_or_absent(s3: fixture.S3Server, tmp_path: Path) -> None:
    bucket = s3_storage.Bucket(BUCKET, access(s3, tmp_path), SHORT)
    bucket.create("data/rows.jsonl", b"{}" * 1_000_000)
    bucket.download("data/rows.jsonl", tmp_path / "new" / "rows.jsonl")
    assert (tmp_path / "new" / "rows.jsonl").stat().st_size == 2_000_000
    with pytest.raises(s3_storage.ObjectMissing):
        bucket.download("data/none.jsonl", tmp_path / "new" / "none.jsonl")
    assert not (tmp_path / "new" / "none.jsonl").exists()
    assert bucket.keys("data/") == {"data/rows.jsonl": 2_000_000}
