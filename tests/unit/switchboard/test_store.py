"""What the store accepts as a version: folders that are there already, and manifests that lie."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from loraline_api.artifact import MANIFEST, AdapterManifest
from loraline_api.conditions import Reason
from loraline_switchboard.errors import Rejected, Unavailable
from loraline_switchboard.store import AdapterStore
from unit.switchboard import folders

URI = "s3://bucket/adapters/version"


def no_s3() -> NoReturn:
    raise AssertionError("a folder that is there needs no S3")


def held(tmp_path: Path) -> tuple[AdapterStore, AdapterManifest]:
    """A store that holds one version."""
    base = folders.write_base(tmp_path / "base")
    adapter = folders.write_adapter(tmp_path / "adapter")
    manifest = folders.manifest_of(adapter, base)
    (adapter / MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
    (tmp_path / "store").mkdir()
    adapter.rename(tmp_path / "store" / manifest.version)
    return AdapterStore(tmp_path / "store", no_s3), manifest


def test_a_version_that_is_there_is_verified_and_not_fetched_again(tmp_path: Path) -> None:
    store, manifest = held(tmp_path)
    assert store.fetch(manifest.version, URI) == manifest
    assert store.versions() == {manifest.version}


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    store, manifest = held(tmp_path)
    (store.path(manifest.version) / "adapter_config.json").write_text("{}")
    with pytest.raises(Rejected, match=r"adapter_config\.json has sha256 44136fa355b3"):
        store.fetch(manifest.version, URI)


def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    store, manifest = held(tmp_path)
    files = [manifest.files[0].model_copy(update={"path": "../../etc/passwd"})]
    text = manifest.model_copy(update={"files": files}).model_dump_json(by_alias=True)
    (store.path(manifest.version) / MANIFEST).write_text(text)
    with pytest.raises(Rejected, match=r"names file `../../etc/passwd` outside of its folder") as refusal:
        store.fetch(manifest.version, URI)
    assert refusal.value.reason is Reason.ADAPTER_INVALID


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    store, manifest = held(tmp_path)
    (store.path(manifest.version) / MANIFEST).write_text("{}")
    with pytest.raises(Rejected, match=f"{URI}/manifest.json is no manifest: Field required at version"):
        store.fetch(manifest.version, URI)


def test_what_a_broken_download_left_is_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / ".partial-aaaaaaaaaaaa").mkdir()
    store = AdapterStore(tmp_path, no_s3)
    assert store.versions() == set()
    assert list(tmp_path.iterdir()) == []


def test_two_routes_with_the_same_version_fetch_it_one_after_the_other(tmp_path: Path) -> None:
    begun = threading.Semaphore(0)
    may_end = threading.Event()

    def connect() -> NoReturn:
        begun.release()
        may_end.wait()
        raise Unavailable(Reason.STORAGE_UNAVAILABLE, "S3 is down")

    store = AdapterStore(tmp_path, connect)
    with ThreadPoolExecutor() as threads:
        same = [threads.submit(store.fetch, "aaaaaaaaaaaa", URI) for _ in range(2)]
        assert begun.acquire(timeout=60)
        assert not begun.acquire(timeout=0.1)
        other = threads.submit(store.fetch, "bbbbbbbbbbbb", URI)
        assert begun.acquire(timeout=60)
        may_end.set()
        assert [type(fetch.exception()) for fetch in (*same, other)] == [Unavailable] * 3
