"""A node without a kubelet: it is Ready and takes pods, and pods that are deleted end a moment later.

What containers do is the flows' matter; scheduler, Job controller and garbage collector are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp

from faults.proxy import Upstream, lines

NODE = "node-1"
HEARTBEAT_S = 10.0
GRACE_S = 0.3
"""Time that a deleted pod still lives."""

RESOURCES = {"cpu": "10k", "memory": "100Ti", "pods": "100k", "nvidia.com/gpu": "10k"}
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@contextlib.asynccontextmanager
async def kubelet(upstream: Upstream) -> AsyncIterator[None]:
    """Plays while the block runs."""
    await _register(upstream)
    tasks = [asyncio.create_task(_beat(upstream)), asyncio.create_task(_end_deleted_pods(upstream))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _register(upstream: Upstream) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
    await _send(upstream, "POST", "/api/v1/nodes", node)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
    status = {"capacity": RESOURCES, "allocatable": RESOURCES, "conditions": [ready | {"lastTransitionTime": now}]}
    await _send(upstream, "PATCH", f"/api/v1/nodes/{NODE}/status", {"status": status})


async def _beat(upstream: Upstream) -> None:
    while True:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": now}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE}, "spec": spec}
        if await _send(upstream, "PATCH", f"{LEASES}/{NODE}", {"spec": spec}) == 404:
            await _send(upstream, "POST", LEASES, lease)
        await asyncio.sleep(HEARTBEAT_S)


async def _end_deleted_pods(upstream: Upstream) -> None:
    waiting: set[asyncio.Task[None]] = set()
    while True:
        revision = await upstream.revision()
        with contextlib.suppress(aiohttp.ClientError):
            async with upstream.request("GET", f"/api/v1/pods?watch=true&resourceVersion={revision}") as answer:
                async for line in lines(answer.content):
                    event = json.loads(line)
                    if event["type"] == "MODIFIED" and "deletionTimestamp" in event["object"]["metadata"]:
                        task = asyncio.create_task(_end(upstream, event["object"]["metadata"]))
                        waiting.add(task)
                        task.add_done_callback(waiting.discard)


async def _end(upstream: Upstream, metadata: dict[str, Any]) -> None:
    await asyncio.sleep(GRACE_S)
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
    await _send(upstream, "DELETE", path, body)


async def _send(upstream: Upstream, method: str, path: str, body: Any) -> int:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    data = json.dumps(body).encode()
    async with upstream.request(method, path, headers={"Content-Type": kind}, data=data) as answer:
        await answer.read()
        status: int = answer.status
        return status
