"""The real parts around a switchboard under test: an S3, a vLLM for CPUs, published adapters, the switchboard process.

Each starts a program as users run it; nothing is imitated.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import boto3

from cluster import fixture
from cluster.fixture import free_port
from loraline_api import artifact
from loraline_api.artifact import AdapterFile, AdapterManifest, BaseModelIdentity
from loraline_api.routing import Route, RouteVersion, RoutingTable, SwitchboardState, VersionPhase

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[2]
BUCKET = "adapters"
ACCESS, SECRET = "test-access", "test-secret"
BASE_NAME = "base"
MAX_LORA_RANK = 16

START_S = 600
"""vLLM needs 15 to 60 s, and its first answer 20 s, on two cores that others use too; slower ones took 240 s."""


def setup(what: str) -> Path:
    """The path that tests/tools/setup.sh prints for a part."""
    done = subprocess.run([ROOT / "tests/tools/setup.sh", what], check=True, stdout=subprocess.PIPE, text=True)
    return Path(done.stdout.splitlines()[-1])


def wait_until(what: str, holds: Callable[[], bool], timeout_s: float, look_s: float = 0.1) -> None:
    """Returns as soon as it holds."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"{what} did not come within {timeout_s} s"
        time.sleep(look_s)


def listens(port: int) -> bool:
    """Whether something listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Program:
    """A process with its log in a file, and a session of its own: its children end with it, and all with the tests."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self.start()

    def start(self) -> None:
        """Starts it."""
        self._guard = contextlib.ExitStack()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self._env, start_new_session=True)
            end = ("bash", "-c", f"kill -KILL -- -{self.process.pid}")
            self._guard.enter_context(fixture.tied("then", end, os.environ, output=log.fileno()))

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it and to its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, to its children too."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self._guard.close()

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.terminate()
        status = self.process.wait(timeout=60)
        self.kill()
        return status


class S3:
    """A versitygw over a folder."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        for name in ("iam", "data"):
            (folder / name).mkdir(parents=True)
        gateway = str(setup("tools") / "versitygw")
        where = ["--port", f"127.0.0.1:{self.port}", "--iam-dir", str(folder / "iam"), "posix", str(folder / "data")]
        keys = {"ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
        self.program = Program([gateway, *where], folder / "s3.log", keys)
        self.await_start()
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def await_start(self) -> None:
        """Returns when it listens."""
        wait_until("versitygw", lambda: listens(self.port), 60)

    @property
    def client(self) -> S3Client:
        """A client with full rights."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
        )

    def publish(self, folder: Path, base: Path, *, rank: int = 8, base_digest: str | None = None) -> RouteVersion:
        """Publishes a PEFT folder as the trainer does: files, then manifest.json."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = [
            AdapterFile(path=str(path.relative_to(folder)), sha256=artifact.file_sha256(path), size=path.stat().st_size)
            for path in paths
        ]
        version = artifact.adapter_version({file.path: file.sha256 for file in files})
        digest = base_digest or artifact.base_model_digest(base)
        manifest = AdapterManifest(
            version=version,
            run_id="0123456789",
            base_model=BaseModelIdentity(uri="s3://models/tiny", digest=digest),
            rank=rank,
            alpha=2 * rank,
            target_modules=["all-linear"],
            files=files,
            trainer_version="0",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
        for path in paths:
            self.client.upload_file(str(path), BUCKET, f"adapters/{version}/{path.relative_to(folder)}")
        text = manifest.model_dump_json(by_alias=True).encode()
        self.client.put_object(Bucket=BUCKET, Key=f"adapters/{version}/manifest.json", Body=text)
        return RouteVersion(version=version, uri=f"s3://{BUCKET}/adapters/{version}")


class Vllm:
    """A vLLM for CPUs that serves the tiny base model."""

    def __init__(self, base: Path, log: Path) -> None:
        self.port = free_port()
        python = str(setup("vllm") / "bin/python")
        env = {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": "",
        }
        flags = f"--host 127.0.0.1 --port {self.port} --model {base} --served-model-name {BASE_NAME} --dtype float32"
        flags += " --max-model-len 512 --enforce-eager --num-gpu-blocks-override 128 --max-num-seqs 16"
        flags += f" --enable-lora --max-loras 4 --max-cpu-loras 64 --max-lora-rank {MAX_LORA_RANK}"
        module = ["-m", "vllm.entrypoints.openai.api_server"]
        self.program = Program([python, *module, *flags.split()], log, env)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"


class Switchboard:
    """A switchboard process, the table that it reads, and requests to it."""

    def __init__(
        self, folder: Path, base: Path, s3: S3, vllm: Vllm, *options: str, adapters: Path | None = None
    ) -> None:
        self.table = folder / "routes.json"
        self.adapters = adapters or folder / "adapters"
        self.adapters.mkdir(parents=True, exist_ok=True)
        secret = folder / "secrets/storage"
        secret.mkdir(parents=True)
        (secret / "AWS_ACCESS_KEY_ID").write_text(ACCESS)
        (secret / "AWS_SECRET_ACCESS_KEY").write_text(SECRET)
        self.port = free_port()
        command = f"serve --base-name {BASE_NAME} --base-path {base} --table {self.table} --adapters {self.adapters}"
        command += f" --engine {vllm.url} --endpoint {s3.endpoint} --secrets {folder / 'secrets'}"
        command += f" --host 127.0.0.1 --port {self.port} --files-grace-seconds 1"
        path = f"{ROOT / 'crds'}:{ROOT / 'operator'}"
        self.program = Program(
            [sys.executable, "-m", "loraline_switchboard", *command.split(), *options],
            folder / "switchboard.log",
            {"PYTHONPATH": path},
        )

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    def wants(self, *routes: Route) -> RoutingTable:
        """Writes a routing table, whole, as the kubelet does."""
        table = RoutingTable(max_lora_rank=MAX_LORA_RANK, routes=list(routes))
        new = self.table.with_suffix(".new")
        new.write_text(table.encode())
        new.rename(self.table)
        return table

    async def serves(self, *routes: Route) -> None:
        """Writes a table and returns when the pod is ready with it."""
        digest = self.wants(*routes).digest

        def holds(state: SwitchboardState) -> bool:
            proved = all(item.phase is VersionPhase.PROVED for item in state.versions)
            return state.ready and state.table_digest == digest and proved

        await until(self, holds)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def state(self) -> SwitchboardState:
        """Its /state."""
        return SwitchboardState.model_validate_json((await self.get("/state"))[1])

    async def ask(self, model: str, prompt: str = "hello world", **options: Any) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers and JSON of a greedy completion."""
        body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **options}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/completions", json=body) as answer,
        ):
            return answer.status, answer.headers, json.loads(await answer.read())


def route(name: str, *versions: RouteVersion, serving: RouteVersion | None) -> Route:
    """A route of a table."""
    return Route(name=name, serving=serving.version if serving else None, versions=list(versions))


def phase_of(state: SwitchboardState, version: RouteVersion) -> VersionPhase | None:
    """The phase of a version, or None when it is not held."""
    return next((item.phase for item in state.versions if item.version == version.version), None)


async def until(
    board: Switchboard, holds: Callable[[SwitchboardState], bool], timeout_s: float = START_S
) -> SwitchboardState:
    """The first state for which it holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            state = await board.state()
            if holds(state):
                return state
            await asyncio.sleep(0.1)
