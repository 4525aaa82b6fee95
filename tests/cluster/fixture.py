"""Starts the built-in cluster and an S3 server for a test, and stops them exactly when the test or its process ends.

Each is a context manager with a folder of its own, so that several run side by side. What they run is real: the
programs of programs.sh and setup.sh. What a cluster holds (CRDs, the chart, images) is the matter of the tests.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SETUP = HERE.parent / "tools" / "setup.sh"
IMAGES = HERE.parent / "images"
S3_START_S = 60.0  # it takes 0.3 s; the rest is for a machine that is busy with other things

PORTS = range(10_000, 30_000)
"""Below the ports of Kubernetes' node port Services, and below those from which Linux takes one for each connection."""


class FixtureError(Exception):
    """A program of the cluster or the S3 server that did not start, or a command that ended with an error."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running versitygw."""

    endpoint: str
    access_key: str
    secret_key: str
    data: Path
    """Folder that holds a folder for each bucket."""


@contextlib.contextmanager
def control_plane(folder: Path, flags: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Runs etcd, API server, controller manager and scheduler while the context lasts; gives the admin's kubeconfig.

    Args:
        folder: data, keys and logs; given again, the cluster goes on with its data.
        flags: further flags of the programs, by up.sh's names: `{"APISERVER_ARGS": "--v=4"}`.

    Raises:
        FixtureError: a program ended, or did not answer within a minute; the message names its log.
    """
    with _cluster("control-plane", folder, flags) as kubeconfig:
        yield kubeconfig


@contextlib.contextmanager
def node(folder: Path, flags: Mapping[str, str] | None = None) -> Iterator[Path]:
    """Runs the control plane and a node with a real kubelet while the context lasts, and gives the admin's kubeconfig.

    Needs root. Pods and Services have addresses only inside: see `in_node`. A new folder starts with the images that
    `tests/images/build.sh` imported last; `load_images` brings the rest.
    """
    with _cluster("node", folder, flags) as kubeconfig:
        yield kubeconfig


@contextlib.contextmanager
def s3_server(folder: Path, port: int | None = None) -> Iterator[S3Server]:
    """Runs versitygw over a folder while the context lasts.

    The folder keeps the buckets and the keys: the same folder and port again is the same server after an outage.

    Raises:
        FixtureError: it ended, or did not listen within 20 s.
    """
    data, accounts = folder / "data", folder / "accounts"
    for path in (data, accounts):
        path.mkdir(parents=True, exist_ok=True)
    secret = _kept_secret(folder / "secret-key")
    port = port or free_port()
    command = [
        str(tools() / "versitygw"),
        "--port",
        f"127.0.0.1:{port}",
        "--iam-dir",
        str(accounts),
        "posix",
        str(data),
    ]
    environment = {**os.environ, "ROOT_ACCESS_KEY": "loraline", "ROOT_SECRET_KEY": secret}
    log = folder / "log"
    with log.open("ab") as output, tied("run", command, environment, output=output.fileno()) as process:
        _await_port(port, process, log)
        yield S3Server(f"http://127.0.0.1:{port}", "loraline", secret, data)


@contextlib.contextmanager
def tied(
    how: str, command: Sequence[str], environment: Mapping[str, str], output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Ties a command to this process by tied.sh; in a session of its own, a Ctrl-C reaches it only through us."""
    process = subprocess.Popen(
        [str(HERE / "tied.sh"), how, *command],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def in_node(
    folder: Path, command: Sequence[str], *, input_text: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a command where the node is, as one logged in on it would; KUBECONFIG is set.

    Raises:
        FixtureError: it ended with an error, and `check` is true; the message holds its last words.
    """
    line = [str(HERE / "in.sh"), str(folder), *command]
    done = subprocess.run(line, input=input_text, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise FixtureError(_ended(command, done.returncode, done.stderr))
    return done


def load_images(folder: Path, names: Sequence[str] = ()) -> None:
    """Brings images to the node of that cluster; by default all of ours, built where needed.

    Args:
        names: names that `build_images` gave.
    """
    _output([str(IMAGES / "load.sh"), str(folder), *names])


def build_images(*what: str) -> dict[str, str]:
    """Builds images (`operator`, `trainer`, `s3`, `server`, `node-images`; by default all) and gives their names."""
    lines = _output([str(IMAGES / "build.sh"), *what]).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


@functools.cache
def programs() -> Path:
    """Folder of kubectl and the other programs of the control plane."""
    return Path(_output([str(SETUP), "k8s-control-plane"]).splitlines()[-1])


@functools.cache
def tools() -> Path:
    """Folder of versitygw and helm."""
    return Path(_output([str(SETUP), "tools"]).splitlines()[-1])


@functools.cache
def kueue() -> Path:
    """Folder of Kueue's controller, its CRDs and its webhooks."""
    return Path(_output([str(SETUP), "kueue"]).splitlines()[-1])


def free_port() -> int:
    """Returns a port of 127.0.0.1 on which nobody listens, and which no outgoing connection gets in the meantime."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def _cluster(mode: str, folder: Path, flags: Mapping[str, str] | None) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with tied("then", [str(HERE / "down.sh"), str(folder)], os.environ):
        _output([str(HERE / "up.sh"), mode, str(folder)], {**os.environ, **(flags or {})})
        yield folder / "admin.kubeconfig"


def _output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FixtureError(_ended(command, done.returncode, done.stderr))
    return done.stdout


def _ended(command: Sequence[str], code: int, stderr: str) -> str:
    return f"`{' '.join(command)}` ended with exit code {code}: {stderr.strip()[-2000:]}"


def _kept_secret(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16))
    return path.read_text()


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + S3_START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise FixtureError(f"versitygw ended with exit code {process.returncode}: {log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise FixtureError(f"versitygw did not listen on port {port} within {S3_START_S:.0f} s; its log is {log}")


def kubeconfig(
    path: Path, server: str, *, authority: Path | None = None, user: Mapping[str, str] | None = None
) -> Path:
    """Writes a kubeconfig of one context that leads to a server; `authority` is the file of its certificate."""
    cluster = {"server": server} | ({"certificate-authority": str(authority)} if authority is not None else {})
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "nobody", "user": dict(user or {})}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "nobody"}}],
        "current-context": "it",
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def certificate(folder: Path) -> tuple[Path, Path]:
    """Makes a certificate of its own authority for 127.0.0.1, tls.crt, and its key, tls.key, in the folder."""
    made, key = folder / "tls.crt", folder / "tls.key"
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    command = ("openssl", *request, *name, "-keyout", str(key), "-out", str(made))
    subprocess.run(command, check=True, capture_output=True)
    return made, key
