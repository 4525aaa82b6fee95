"""The line for the GPUs of a namespace, where the policy limits them: who holds some, who is before whom.

Strictly by creation, so that small fine-tunes never pass a large one for ever. One that cannot start anyway (refused,
without data, suspended) is not in the line and holds up nobody. A run that was let in keeps its place until it ends or
is suspended, also between two attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loraline_api.finetune_status import Waiting
from loraline_operator import plan_policy
from loraline_operator.observed_claims import Claim

MAX_NAMED = 4
MAX_JOBS = 16


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a fine-tune does not start yet."""

    waiting: Waiting
    message: str


def wait(claims: Sequence[Claim], name: str, gpus: int, namespace: str, limit: int | None) -> Wait | None:
    """What the fine-tune of that name waits for; None lets it start.

    Args:
        claims: those of all fine-tunes of the namespace, its own among them.
    """
    if limit is None or not gpus:
        return None
    whose = f"the policy of namespace {namespace}"
    asks = f"spec.compute asks for {plan_policy.counted(gpus)} and {whose} allows {limit} at once"
    own = next(claim for claim in claims if claim.name == name)
    holders = [claim for claim in claims if claim.holds and claim.name != name]
    others = () if own.holds else claims  # who asks anew, as its settings were edited, keeps its place
    before = [claim for claim in others if claim.waits and not claim.holds and claim.place < own.place]
    held = sum(claim.gpus for claim in holders)
    if held + sum(claim.gpus for claim in before) + gpus <= limit:
        return None
    if before:
        behind = max(before, key=lambda claim: claim.place).name
        return Wait(Waiting(behind=behind), f"{asks}; it is in line after {behind}")
    jobs = sorted(job for claim in holders for job in claim.jobs)[:MAX_JOBS]
    ending = next((claim.name for claim in holders if not claim.jobs), None)  # its Job is done, its status is to say so
    message = f"{asks}, of which {held} are held by {_named(holders)}; it starts when they end"
    return Wait(Waiting(behind=ending, jobs=jobs), message)


def _named(holders: Sequence[Claim]) -> str:
    names = sorted(claim.name for claim in holders)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
