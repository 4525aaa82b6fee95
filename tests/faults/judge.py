"""Judges generated manifests on the real API server: accepted and at rest, or refused with the name of the field."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from faults import manifests
from faults.manifests import Case
from faults.plans import Plan
from faults.play import Arena, Operators, place
from harness.operator_process import Tenant, eventually
from loraline_operator.actions import Kind

AT_ONCE = 16
REST_S = 5.0
LIMIT_S = 120.0
RESYNC_S = 30.0
"""With hundreds of objects, a resync every few seconds would be all that the operator does."""

REFUSALS = (400, 422)


@dataclass
class Judgement:
    """What became of them."""

    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


async def judge(arena: Arena, count: int, seed: int = 1) -> Judgement:
    """Applies so many manifests as kubectl does, waits until the operator has come to rest, and looks at each."""
    judgement = Judgement()
    started = time.monotonic()
    async with place(arena) as (tenant, _):
        operators = Operators(arena, Plan("manifests"), tenant, resync_s=RESYNC_S)
        try:
            await operators.start()
            slots = asyncio.Semaphore(AT_ONCE)
            cases = [*manifests.generate(count, seed)]
            accepted = await asyncio.gather(
                *(_apply(arena, tenant.namespace, case, judgement, slots) for case in cases)
            )
            await _rest(tenant, operators, [case for case in accepted if case is not None], judgement)
            judgement.problems += operators.tracebacks()
        finally:
            await operators.stop()
    judgement.seconds = round(time.monotonic() - started, 1)
    return judgement


async def _apply(
    arena: Arena, namespace: str, case: Case, judgement: Judgement, slots: asyncio.Semaphore
) -> Case | None:
    """The case, if the API server takes it."""
    body = {
        "apiVersion": "loraline.dev/v1alpha1",
        "kind": "LoraFineTune",
        "metadata": {"name": case.name},
        "spec": case.spec,
    }
    path = f"/apis/loraline.dev/v1alpha1/namespaces/{namespace}/lorafinetunes?fieldValidation=Strict"
    headers = {"Content-Type": "application/json"}
    async with slots, arena.upstream.request("POST", path, headers=headers, data=json.dumps(body).encode()) as answer:
        said = (await answer.json(content_type=None)).get("message", "")
    if answer.status < 300:
        judgement.accepted += 1
        return case
    judgement.refused += 1
    if answer.status not in REFUSALS or not case.is_named_in(said):
        judgement.problems.append(f"{case.name} {json.dumps(case.spec):.300}: {answer.status} {said:.300}")
    return None


async def _rest(tenant: Tenant, operators: Operators, cases: Iterable[Case], judgement: Judgement) -> None:
    """Every accepted one gets a status of its generation, and then nothing is written any more."""
    waiting: dict[str, str] = {case.name: json.dumps(case.spec) for case in cases}

    async def look() -> bool:
        async for item in tenant.cluster.list(Kind.FINE_TUNE, tenant.namespace):
            status = item.get("status") or {}
            if status.get("observedGeneration") == item["metadata"]["generation"] and status.get("conditions"):
                waiting.pop(item["metadata"]["name"], None)
        before = operators.writes()
        await asyncio.sleep(REST_S)
        return not waiting and operators.writes() == before

    try:
        await eventually(look, "all manifests are at rest", LIMIT_S)
    except AssertionError as error:
        judgement.problems.append(str(error))
        judgement.problems += [f"{name} {spec:.300}: no status" for name, spec in waiting.items()]
