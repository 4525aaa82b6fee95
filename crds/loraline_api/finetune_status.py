"""What the status of a LoraFineTune tells."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from loraline_api.conditions import Condition
from loraline_api.model import UNSEEN_GENERATION, StatusModel
from loraline_api.outcome import MetricResult, Sample
from loraline_api.progress import Progress

MAX_HISTORY = 10
"""Runs kept in status.history."""


class RunRef(StatusModel):
    """The current run."""

    id: str = Field(max_length=10, description="sha256 over the resolved inputs, first 10 hex digits.")
    recipe_hash: str | None = Field(
        default=None, max_length=10, description="Hash of its inputs without the content of configmap:// data."
    )
    attempt: int = Field(default=1, ge=1, description="Number of the attempt, from 1.")
    failures: int = Field(default=0, ge=0, description="Attempts that failed; retries are counted against this.")
    job_name: str | None = Field(default=None, max_length=63, description="Job of the attempt.")
    settings_hash: str | None = Field(
        default=None,
        max_length=10,
        description="Hash of what an attempt may change: compute, retries, deadline, secrets.",
    )
    admitted: bool | None = Field(
        default=None,
        description="The policy let it start: it goes on, retries included, whatever the policy becomes, until it is "
        "suspended or its compute, retries, deadline or Secrets are edited.",
    )
    start_time: datetime | None = Field(default=None, description="When the run started.")
    retry_time: datetime | None = Field(default=None, description="When the next attempt starts.")
    completion_time: datetime | None = Field(default=None, description="When the run ended.")


class AdapterRef(StatusModel):
    """A published adapter."""

    version: str = Field(max_length=12, description="Digest of the adapter's files, first 12 hex digits.")
    uri: str = Field(max_length=1024, description="S3 prefix of its files.")
    run_id: str = Field(max_length=10, description="Run that made it.")
    rank: int = Field(ge=1, description="Rank of the adapter.")


class RunRecord(StatusModel):
    """A finished run, kept so that going back to its inputs finds its adapter."""

    run_id: str = Field(max_length=10, description="Id of the run.")
    succeeded: bool = Field(description="Whether it published an adapter.")
    version: str | None = Field(default=None, max_length=12, description="Version of its adapter.")
    uri: str | None = Field(default=None, max_length=1024, description="URI of its adapter.")
    rank: int | None = Field(default=None, description="Rank of its adapter.")
    reason: str = Field(max_length=64, description="Reason of its end.")
    message: str = Field(default="", max_length=1200, description="Why it ended.")
    settings_hash: str | None = Field(default=None, max_length=10, description="Settings of its last attempt.")
    metrics: list[MetricResult] = Field(default=[], max_length=16, description="Its evaluation.")
    completion_time: datetime = Field(description="When it ended.")


class Estimate(StatusModel):
    """What the run takes, estimated before any GPU is taken."""

    memory_gib: str | None = Field(
        default=None,
        alias="memoryGiB",
        max_length=16,
        description="GPU memory for microBatchSize (or one) sequences of maxSeqLength, with activation checkpointing.",
    )
    least_memory_gib: str | None = Field(
        default=None,
        alias="leastMemoryGiB",
        max_length=16,
        description="GPU memory without which not even one short sequence at a time trains; a smaller card is refused.",
    )
    fast_memory_gib: str | None = Field(
        default=None,
        alias="fastMemoryGiB",
        max_length=16,
        description="GPU memory with which nothing is computed twice.",
    )
    gpus: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[], max_length=16, description="Cards of the catalogue that have memoryGiB, smallest first."
    )
    gpu: str | None = Field(
        default=None, max_length=63, description="Card of time and cost: that of compute.gpuType, or the first of gpus."
    )
    tokens_per_second: int | None = Field(default=None, ge=0, description="Speed, within a factor of two.")
    seconds_per_million_tokens: int | None = Field(default=None, ge=0, description="Time for a million tokens.")
    cost_per_million_tokens: str | None = Field(
        default=None, max_length=32, description="Price of a million tokens, as in 0.35 USD."
    )
    hours: str | None = Field(
        default=None, max_length=16, description="Time at most, where maxSteps or maxSamples bound the tokens."
    )
    cost: str | None = Field(default=None, max_length=32, description="Price at most, likewise.")
    message: str = Field(default="", max_length=512, description="The estimate in a sentence, or why there is none.")


class Waiting(StatusModel):
    """What a fine-tune waits for that the policy makes wait."""

    behind: str | None = Field(
        default=None,
        max_length=253,
        description="The fine-tune before it in the line for GPUs, or whose end is about to free some.",
    )
    jobs: list[Annotated[str, Field(max_length=63)]] = Field(
        default=[], max_length=16, description="Jobs that hold the GPUs, while it is the first in the line."
    )


class Display(StatusModel):
    """Texts for the columns of kubectl get."""

    progress: str = Field(default="", max_length=32, description="As in 40%, Evaluating or Unschedulable.")
    loss: str = Field(default="", max_length=32, description="Training loss.")
    eta: str = Field(default="", max_length=32, description="As in 3m20s.")


class LoraFineTuneStatus(StatusModel):
    """What the operator observed."""

    observed_generation: int = Field(
        default=UNSEEN_GENERATION,
        ge=UNSEEN_GENERATION,
        description="metadata.generation that this status speaks of; -1 before the operator came by.",
    )
    phase: str = Field(
        default="Pending",
        max_length=32,
        description="Pending, Running, Succeeded, Failed, Suspended, Deleting; for people.",
    )
    conditions: list[Condition] = Field(default=[], max_length=32, description="Conditions, as metav1.Condition.")
    run: RunRef | None = Field(default=None, description="The current run.")
    progress: Progress | None = Field(default=None, description="Progress of the current attempt.")
    display: Display | None = Field(default=None, description="Texts for the columns of kubectl get.")
    estimate: Estimate | None = Field(default=None, description="What the run takes, estimated before it starts.")
    waiting: Waiting | None = Field(default=None, description="What holds the GPUs that it waits for.")
    adapter: AdapterRef | None = Field(default=None, description="The newest adapter of the current inputs.")
    evaluation: list[MetricResult] = Field(default=[], max_length=16, description="Metrics before and after.")
    samples: list[Sample] = Field(default=[], max_length=3, description="Answers before and after.")
    history: list[RunRecord] = Field(default=[], max_length=MAX_HISTORY, description="Finished runs, newest first.")
    restarted_by: str | None = Field(
        default=None,
        max_length=253,
        description="Value of the annotation loraline.dev/restart that the current run answers.",
    )
