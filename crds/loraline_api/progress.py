"""What a training pod serves at /progress, and the operator copies into status."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from loraline_api.model import StatusModel

PROGRESS_PORT = 9400
"""Port of /progress (JSON), /metrics (Prometheus) and /healthz in the training pod."""

MAX_TOLD_CHARS = 300
"""Longest sentence of a progress field."""


class Stage(StrEnum):
    """The stages of an attempt, in order."""

    STARTING = "Starting"
    FETCHING = "Fetching"
    PREPARING_DATA = "PreparingData"
    LOADING_MODEL = "LoadingModel"
    SCORING_BASE = "ScoringBase"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    FINISHED = "Finished"


class Progress(StatusModel):
    """Progress of an attempt. Numbers with fractions are strings, as Kubernetes APIs have no floats."""

    stage: Stage = Field(default=Stage.STARTING, description="What the attempt is doing.")
    percent: int = Field(default=0, ge=0, le=100, description="Share of the optimizer steps done, in percent.")
    step: int = Field(default=0, ge=0, description="Optimizer steps done.")
    total_steps: int | None = Field(default=None, ge=0, description="Optimizer steps in all.")
    epoch: str | None = Field(default=None, max_length=16, description="Epochs done, as in 1.25.")
    loss: str | None = Field(default=None, max_length=32, description="Training loss of the last logged step.")
    learning_rate: str | None = Field(default=None, max_length=32, description="Learning rate of the last step.")
    tokens_per_second: int | None = Field(default=None, ge=0, description="Tokens per second of the last steps.")
    eta_seconds: int | None = Field(default=None, ge=0, description="Seconds until training ends, estimated.")
    engine: str | None = Field(
        default=None, max_length=MAX_TOLD_CHARS, description="on, or off and why PEFT's own path trains."
    )
    memory_plan: str | None = Field(
        default=None, max_length=MAX_TOLD_CHARS, description="What layers keep, and how many sequences go at a time."
    )
    updated_at: datetime | None = Field(default=None, description="When the trainer last changed this.")
