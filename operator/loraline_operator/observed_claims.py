"""What the fine-tunes of a namespace hold and wait for, as the line for GPUs sees it, parsed from API objects.

Who may start is decided in `plan_gpu_line`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from loraline_api.conditions import ConditionType, Reason
from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_operator import observed
from loraline_operator.actions import Manifest

HOPELESS = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.POLICY_VIOLATION,
        Reason.GPU_TOO_SMALL,
        Reason.DATASET_NOT_FOUND,
        Reason.DATASET_INVALID,
    }
)
"""Reasons of Ready with which a fine-tune does not wait for GPUs."""

FAR = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Claim:
    """A fine-tune of the namespace."""

    name: str
    created: datetime | None
    gpus: int
    holds: bool = False
    """Whether it was let in and has not ended."""
    waits: bool = False
    jobs: tuple[str, ...] = ()
    """Its live Jobs."""

    @property
    def place(self) -> tuple[datetime, str]:
        """Its place in the line."""
        return self.created or FAR, self.name


def has_attempt(status: LoraFineTuneStatus) -> bool:
    """Whether the fine-tune has an attempt that was let in: then it asks for no GPUs."""
    run = status.run
    return run is not None and bool(run.admitted) and run.job_name is not None and run.completion_time is None


def claim(manifest: Manifest, jobs: Mapping[str, tuple[str, ...]]) -> Claim:
    """The claim of a fine-tune as the API server holds it; `jobs` are the live ones by their owner's uid."""
    meta = observed.meta(manifest)
    spec, status = manifest.get("spec") or {}, manifest.get("status") or {}
    run, compute = status.get("run") or {}, spec.get("compute") or {}
    live = jobs.get(meta.uid, ())
    is_held_back = bool(spec.get("suspend")) or meta.is_deleting
    is_admitted = bool(run.get("admitted")) and "completionTime" not in run
    return Claim(
        name=meta.name,
        created=meta.created,
        gpus=compute.get("gpus", 1) * compute.get("nodes", 1),
        holds=bool(live) or (is_admitted and not is_held_back),
        waits=not is_held_back and not _is_done(status, meta.generation),
        jobs=live,
    )


def _is_done(status: Manifest, generation: int) -> bool:
    """Whether this very spec has ended, or cannot start."""
    if status.get("observedGeneration") != generation:
        return False
    reasons = {item.get("type"): item.get("reason") for item in status.get("conditions") or ()}
    return status.get("phase") in ("Succeeded", "Failed") or reasons.get(ConditionType.READY) in HOPELESS
