"""Where the cluster's programs come from: a given folder, or a download site whose checksums are kept to.

The site is a local HTTP server with the layout of the real ones; the build from Go modules is not tried here.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).with_name("programs.sh")
KUBERNETES, ETCD, COREDNS = "v1.37.1", "v3.7.0", "1.15.0"
SCRIPT = b"#!/bin/sh\necho it works\n"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def put(path: Path, content: bytes) -> str:
    """Writes a file of the site and gives its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def archive(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(SCRIPT)
        tar.addfile(info, io.BytesIO(SCRIPT))
    return out.getvalue()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A mirror of the three download sites, one folder each."""
    mirror = tmp_path / "mirror"
    for program in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kubelet", "kube-proxy"):
        path = mirror / "dl.k8s.io/release" / KUBERNETES / "bin/linux/amd64" / program
        put(path.with_name(f"{program}.sha256"), put(path, SCRIPT).encode())
    etcd = mirror / "github.com/etcd-io/etcd/releases/download" / ETCD / f"etcd-{ETCD}-linux-amd64.tar.gz"
    digest = put(etcd, archive(f"etcd-{ETCD}-linux-amd64/etcd"))
    put(etcd.with_name("SHA256SUMS"), f"{'0' * 64}  etcd-{ETCD}-linux-arm64.tar.gz\n{digest}  {etcd.name}\n".encode())
    coredns = mirror / f"github.com/coredns/coredns/releases/download/v{COREDNS}/coredns_{COREDNS}_linux_amd64.tgz"
    put(coredns.with_name(f"{coredns.name}.sha256"), f"{put(coredns, archive('coredns'))}  {coredns.name}\n".encode())
    return mirror


def find(cache: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAMS, "node"],
        env={**os.environ, "XDG_CACHE_HOME": str(cache), "LORALINE_K8S_BIN": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_downloaded_programs_are_checked_and_kept(tmp_path: Path, site: Path) -> None:
    with served(site) as url:
        first = find(tmp_path, {"LORALINE_DOWNLOADS": url})
    again = find(tmp_path, {"LORALINE_DOWNLOADS": "http://127.0.0.1:9"})  # nobody answers there
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.splitlines()[-1])
    for program in ("etcd", "coredns", "kubelet", "kubectl"):
        assert subprocess.check_output([folder / program]) == b"it works\n"
    assert (again.returncode, again.stdout) == (0, first.stdout)


def test_a_download_with_another_checksum_is_thrown_away(tmp_path: Path, site: Path) -> None:
    kubectl = site / "dl.k8s.io/release" / KUBERNETES / "bin/linux/amd64/kubectl"
    kubectl.write_bytes(b"something else")
    with served(site) as url:
        result = find(tmp_path, {"LORALINE_DOWNLOADS": url})
    assert result.returncode != 0
    got, want = hashlib.sha256(b"something else").hexdigest(), hashlib.sha256(SCRIPT).hexdigest()
    assert f"/kubectl has the sha256 {got}, and kubectl.sha256 says {want}" in result.stderr
    assert not list(tmp_path.glob("loraline/*/bin/kubectl"))


def test_a_given_folder_has_to_hold_every_program(tmp_path: Path) -> None:
    (tmp_path / "kubectl").write_bytes(SCRIPT)
    (tmp_path / "kubectl").chmod(0o755)
    result = find(tmp_path, {"LORALINE_K8S_BIN": str(tmp_path)})
    assert result.returncode != 0
    assert f"LORALINE_K8S_BIN is {tmp_path}, and that folder lacks: etcd kube-apiserver" in result.stderr


def test_without_download_site_and_go_the_message_names_both_ways_out(tmp_path: Path) -> None:
    tools = tmp_path / "tools"  # a machine without Go
    tools.mkdir()
    for name in (
        "bash",
        "dirname",
        "awk",
        "mkdir",
        "mktemp",
        "flock",
        "rm",
        "cat",
        "cut",
        "env",
        "date",
        "tail",
        "curl",
    ):
        found = subprocess.check_output(["which", name], text=True).strip()
        (tools / name).symlink_to(found)
    result = find(tmp_path, {"LORALINE_DOWNLOADS": "none", "PATH": str(tools)})
    assert result.returncode != 0
    assert "building it takes Go 1.26 or newer, and this machine has no Go: install it from" in result.stderr
