"""Builders of the objects that planners see: `a_finetune().with_rank(8).object()`, `a_job().failed("...")`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from loraline_api.finetune_status import LoraFineTuneStatus
from loraline_api.outcome import Outcome
from loraline_operator import naming, observed
from loraline_operator.actions import Manifest
from loraline_operator.observed import FineTuneObject
from loraline_operator.observed_finetune import Data, Job, MissingData, ObservedFineTune, Pod, Snapshot
from loraline_operator.settings import Settings

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"
VERSION = "4c47e0cfb45a"

SETTINGS = Settings(
    trainer_image="registry.example/loraline-trainer:1",
    switchboard_image="registry.example/loraline-operator:1",
    server_image="registry.example/vllm:1",
)


class FineTuneBuilder:
    """A LoraFineTune as the API server holds it."""

    def __init__(self) -> None:
        self.manifest: Manifest = {
            "apiVersion": "loraline.dev/v1alpha1",
            "kind": "LoraFineTune",
            "metadata": {
                "name": "tickets",
                "namespace": "support",
                "uid": UID,
                "resourceVersion": "1",
                "generation": 1,
            },
            "spec": {
                "baseModel": {"uri": "hf://org/model"},
                "dataset": {"train": {"uri": "s3://data/train.jsonl"}},
                "output": {"uri": "s3://adapters/tickets", "secretRef": {"name": "adapter-storage"}},
            },
        }

    def with_spec(self, path: str, value: Any) -> FineTuneBuilder:
        """Another value of a field, as in `training.seed`; when it is another, the generation goes up."""
        spec = _with(self.manifest["spec"], path.split("."), value)
        generation = self.manifest["metadata"]["generation"] + (spec != self.manifest["spec"])
        return self._changed(spec=spec).with_metadata(generation=generation)

    def with_rank(self, rank: int) -> FineTuneBuilder:
        """Another training input: another run."""
        return self.with_spec("adapter.rank", rank)

    def with_metadata(self, **values: Any) -> FineTuneBuilder:
        """Other metadata, as `annotations` or `deletionTimestamp`."""
        return self._changed(metadata=self.manifest["metadata"] | values)

    def with_status(self, status: LoraFineTuneStatus) -> FineTuneBuilder:
        """The status that an earlier plan left."""
        return self._changed(status=status.dump())

    def object(self) -> FineTuneObject:
        """The parsed object."""
        return observed.finetune(self.manifest)

    def _changed(self, **parts: Any) -> FineTuneBuilder:
        """Another builder, which shares with this one what is not changed."""
        changed = FineTuneBuilder()
        changed.manifest = self.manifest | parts
        return changed


def _with(node: Manifest, path: list[str], value: Any) -> Manifest:
    """The node with another value at the path."""
    first, *rest = path
    return node | {first: _with(node.get(first, {}), rest, value) if rest else value}


def a_finetune() -> FineTuneBuilder:
    """The shortest fine-tune."""
    return FineTuneBuilder()


def a_job(run_id: str, settings_hash: str, attempt: int = 1) -> Job:
    """The live Job of an attempt."""
    name = naming.job_name("tickets", run_id, attempt)
    return Job(name, f"uid-of-{name}", UID, run_id, attempt, settings_hash)


def complete(job: Job) -> Job:
    """The Job after its pod succeeded."""
    return replace(job, end="CompletionsReached")


def failed(job: Job, reason: str = "BackoffLimitExceeded") -> Job:
    """The Job after its pod failed."""
    return replace(job, end=reason, has_failed=True, message="Job has reached the specified backoff limit")


def a_pod(job: Job, phase: str = "Running", **values: Any) -> Pod:
    """A pod of a Job."""
    return replace(
        Pod(f"{job.name}-x7k2p", f"uid-of-pod-of-{job.name}", job.name, phase, created=NOW, owner_uid=job.uid), **values
    )


def an_ended_pod(job: Job, code: int, outcome: Outcome | None = None, **values: Any) -> Pod:
    """A pod whose container ended with this exit code and termination message."""
    message = outcome.encode().decode() if outcome is not None else ""
    phase = "Succeeded" if code == 0 else "Failed"
    return a_pod(job, phase, exit_code=code, termination_message=message, **values)


def an_outcome(run_id: str, code: int = 0, message: str = "") -> Outcome:
    """What the trainer leaves: an adapter for exit code 0, a sentence for others."""
    if code:
        return Outcome(run_id=run_id, exit_code=code, message=message)
    uri = f"s3://adapters/tickets/adapters/{VERSION}"
    return Outcome(run_id=run_id, exit_code=0, version=VERSION, uri=uri, steps=24, train_loss="0.031")


def a_snapshot(run_id: str) -> Snapshot:
    """The ConfigMap of a run."""
    name = naming.snapshot_name("tickets", run_id)
    return Snapshot(name, f"uid-of-{name}", UID, run_id)


def seen(*things: Job | Pod | Snapshot, data: Mapping[str, Data | MissingData] | None = None) -> ObservedFineTune:
    """These children, and nothing else."""
    return ObservedFineTune(
        jobs=tuple(thing for thing in things if isinstance(thing, Job)),
        pods=tuple(thing for thing in things if isinstance(thing, Pod)),
        snapshots=tuple(thing for thing in things if isinstance(thing, Snapshot)),
        data=data or {},
    )
