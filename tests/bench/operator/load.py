"""The load: fine-tunes by the thousand, a watch that notes when what came, and pods' progress for those that run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web

from faults.proxy import Upstream, lines
from loraline_api.progress import PROGRESS_PORT, Progress, Stage

NAMESPACE = "default"
PATH = f"/apis/loraline.dev/v1alpha1/namespaces/{NAMESPACE}/lorafinetunes"
AT_ONCE = 32
REOPEN_S = 0.05
SO_BINDTODEVICE = 25


def finetune(name: str) -> dict[str, Any]:
    """A fine-tune as users write them."""
    return {
        "apiVersion": "loraline.dev/v1alpha1",
        "kind": "LoraFineTune",
        "metadata": {"name": name},
        "spec": {
            "baseModel": {"uri": "hf://meta-llama/Llama-3.1-8B-Instruct", "secretRef": {"name": "hugging-face"}},
            "dataset": {"train": {"uri": f"s3://datasets/{name}.jsonl"}},
            "evaluation": {"metrics": ["loss", "exactMatch"], "gates": [{"metric": "exactMatch", "min": 0.9}]},
            "output": {"uri": f"s3://adapters/{name}", "secretRef": {"name": "s3"}},
            "compute": {"gpus": 0, "requests": {"cpu": "100m", "memory": "64Mi"}},
        },
    }


async def create(upstream: Upstream, name: str) -> float:
    """Creates one; the time at which the API server had taken it."""
    data = json.dumps(finetune(name)).encode()
    async with upstream.request("POST", PATH, headers={"Content-Type": "application/json"}, data=data) as answer:
        answer.raise_for_status()
        await answer.read()
        return time.monotonic()


async def create_all(upstream: Upstream, prefix: str, count: int) -> None:
    """Creates many as fast as the API server takes them."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            await create(upstream, f"{prefix}-{number}")

    await asyncio.gather(*(one(number) for number in range(count)))


async def run_pods(upstream: Upstream) -> None:
    """Plays Job controller, scheduler and kubelet: a running pod for each Job that has none."""
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    jobs = (await upstream.get(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"))["items"]
    there = {item["metadata"]["name"] for item in (await upstream.get(pods))["items"]}
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, job: dict[str, Any]) -> None:
        metadata = {"name": f"{job['metadata']['name']}-pod", "labels": job["spec"]["template"]["metadata"]["labels"]}
        metadata["labels"] |= {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "controller": True}
        metadata["ownerReferences"] = [owner | {"uid": job["metadata"]["uid"]}]
        status = {"phase": "Running", "podIP": f"127.100.{number // 250}.{number % 250 + 1}"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": "a"}, "status": status}
        async with slots, upstream.request("POST", pods, data=json.dumps(body).encode()) as answer:
            answer.raise_for_status()
            await answer.read()

    missing = [job for job in jobs if f"{job['metadata']['name']}-pod" not in there]
    await asyncio.gather(*(one(number, job) for number, job in enumerate(missing, len(there))))


async def create_steadily(upstream: Upstream, prefix: str, count: int, per_s: float) -> dict[str, float]:
    """Creates them at a steady rate; when each was taken, by name."""
    started = asyncio.get_running_loop().time()

    async def one(number: int) -> tuple[str, float]:
        await asyncio.sleep(started + number / per_s - asyncio.get_running_loop().time())
        return f"{prefix}-{number}", await create(upstream, f"{prefix}-{number}")

    return dict(await asyncio.gather(*(one(number) for number in range(count))))


class Watch:
    """Notes when each object of a kind was first seen in the state that is waited for; of those with a prefix alone."""

    def __init__(self, upstream: Upstream, path: str, key: str, prefix: str) -> None:
        self.times: dict[str, float] = {}
        self._upstream = upstream
        self._path = path
        self._key = key
        self._prefix = f"{prefix}-"
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watches from now on."""
        revision = await self._upstream.revision()
        self._task = asyncio.create_task(self._run(revision))

    async def until(self, count: int, limit_s: float) -> None:
        """Waits until so many were seen."""
        end = time.monotonic() + limit_s
        while len(self.times) < count:
            if self._task is not None and self._task.done():
                self._task.result()
            if time.monotonic() > end:
                raise AssertionError(f"{len(self.times)} of {count} ({self._key}) within {limit_s:.0f} s")
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Watches no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, revision: int) -> None:
        """Goes on where the watch was when the API server closes it, as it does when its reader falls behind."""
        while True:
            path = f"{self._path}?watch=true&resourceVersion={revision}"
            with contextlib.suppress(aiohttp.ClientError):
                async with self._upstream.request("GET", path) as answer:
                    async for line in lines(answer.content):
                        item = json.loads(line)["object"]
                        revision = int(item["metadata"]["resourceVersion"])
                        self._take(item)
            await asyncio.sleep(REOPEN_S)

    def _take(self, item: dict[str, Any]) -> None:
        name = _finetune_of(item) or ""
        if name.startswith(self._prefix) and name not in self.times and _has(item, self._key):
            self.times[name] = time.monotonic()


def _finetune_of(item: dict[str, Any]) -> str | None:
    labels = item["metadata"].get("labels") or {}
    if item["kind"] == "LoraFineTune":
        return str(item["metadata"]["name"])
    return labels.get("loraline.dev/finetune")


def _has(item: dict[str, Any], key: str) -> bool:
    """`job` is there by being there; `told` has a status with a run; anything else is a phase."""
    status = item.get("status") or {}
    if key == "job":
        return True
    if key == "told":
        return "jobName" in (status.get("run") or {})
    return bool(status.get("phase") == key)


@contextlib.asynccontextmanager
async def progress() -> AsyncIterator[list[int]]:
    """Answers /progress for every pod on loopback, with more percent each time; counts the looks."""
    looks = [0]

    async def answer(_: web.Request) -> web.Response:
        looks[0] += 1
        told = Progress(stage=Stage.TRAINING, percent=looks[0] % 100, step=looks[0], total_steps=10**6, loss="0.8")
        return web.Response(text=told.model_dump_json(by_alias=True), content_type="application/json")

    application = web.Application()
    application.router.add_get("/progress", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo\0")  # all of 127.0.0.0/8, and no other network
    listener.bind(("0.0.0.0", PROGRESS_PORT))
    try:
        await web.SockSite(runner, listener).start()
        yield looks
    finally:
        await runner.cleanup()
