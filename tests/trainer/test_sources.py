"""Datasets of web servers and of the Hub: every way of not getting one becomes an end that says what to do."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pytest

from loraline_trainer import errors
from loraline_trainer.storage import dataset, hub
from loraline_trainer.storage.retries import Passing, Patience

SHORT = Patience(limit_s=0)
NOT_FOUND = datasets.exceptions.DatasetNotFoundError
NO_FILES = datasets.exceptions.DataFilesNotFoundError


class Broken(http.server.BaseHTTPRequestHandler):
    """A server that sends less than it announces."""

    def do_GET(self) -> None:
        self.send_response(200)
        body = b'{"prompt": "1+1", "completion": "2"}\n'
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"ff\r\n" + body
        else:
            self.send_header("Content-Length", str(len(body) + (1000 if self.path == "/short" else 0)))
        self.end_headers()
        self.wfile.write(body)

    protocol_version = "HTTP/1.1"
    close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests' output stays clean."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The address of a server that breaks off."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_whole_answer_is_written(site: str, tmp_path: Path) -> None:
    dataset.download(f"{site}/whole", tmp_path / "x", "dataset.train.uri")
    assert (tmp_path / "x").read_bytes().endswith(b"}\n")


BROKEN_OFF = [
    pytest.param("/short", "announced 1037 bytes and sent 37", id="less than its Content-Length"),
    pytest.param("/chunked", "did not answer: IncompleteRead", id="a chunk that breaks off"),
]


@pytest.mark.parametrize(("path", "expected"), BROKEN_OFF)
def test_an_answer_that_breaks_off_is_asked_for_again(site: str, tmp_path: Path, path: str, expected: str) -> None:
    with pytest.raises(Passing) as caught:
        dataset.download(site + path, tmp_path / "x", "dataset.train.uri")
    assert expected in str(caught.value)


HUB = [
    pytest.param(NOT_FOUND("Dataset 'org/x' doesn't exist"), errors.DatasetNotFound, "doesn't exist", id="none"),
    pytest.param(NO_FILES("No (supported) data files"), errors.DatasetNotFound, "No (supported)", id="no data files"),
    pytest.param(NOT_FOUND("Dataset 'org/x' is a gated dataset"), errors.AccessDenied, "accept its terms", id="gated"),
    pytest.param(FileNotFoundError("a file"), errors.StorageUnavailable, "did not answer", id="another missing file"),
    pytest.param(httpx2.ReadError("reset"), errors.StorageUnavailable, "did not answer", id="a connection that breaks"),
]


def raising(error: Exception) -> Callable[..., Any]:
    def load(*given: object, **options: object) -> Any:
        raise error

    return load


@pytest.mark.parametrize(("error", "kind", "expected"), HUB)
def test_what_the_hub_does_not_give_is_told_by_its_reason(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[errors.TrainerError], expected: str
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", raising(error))
    with pytest.raises(kind) as caught:
        hub.Hub(None, "dataset.train", errors.DatasetNotFound, SHORT).dataset("org/x", None, "train")
    assert "hf://org/x" in str(caught.value)
    assert expected in str(caught.value)
