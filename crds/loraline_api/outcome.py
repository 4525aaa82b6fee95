"""How an attempt ended: the exit codes that trainer and operator share, and the termination message.

The kubelet keeps the first 4,096 bytes of /dev/termination-log, so an `Outcome` is written bounded.
"""

from __future__ import annotations

from enum import IntEnum

from pydantic import Field

from loraline_api.conditions import Reason
from loraline_api.model import StatusModel
from loraline_api.progress import CheckpointProgress

TERMINATION_MESSAGE_BYTES = 4096
"""Most bytes the kubelet reads of a termination message (Kubernetes: MaxContainerTerminationMessageLength)."""

MAX_MESSAGE_CHARS = 1200
MAX_SAMPLES = 3
MAX_SAMPLE_CHARS = 160


class ExitCode(IntEnum):
    """Exit codes of the trainer. 10 to 39 cannot be mended by a retry; 40 to 59 can."""

    SUCCEEDED = 0
    UNEXPECTED_ERROR = 1
    INVALID_SPEC = 10
    DATASET_NOT_FOUND = 11
    DATASET_INVALID = 12
    BASE_MODEL_NOT_FOUND = 13
    BASE_MODEL_INVALID = 14
    ACCESS_DENIED = 15
    BUCKET_NOT_FOUND = 16
    EVAL_BELOW_THRESHOLD = 17
    LOSS_NOT_FINITE = 18
    ADAPTER_UNCHANGED = 19
    CUDA_OUT_OF_MEMORY = 20
    STORAGE_UNAVAILABLE = 40
    INTERRUPTED = 41
    GPU_NOT_FOUND = 42
    KILLED = 137  # SIGKILL: the kernel's or the kubelet's; with reason OOMKilled it was out of memory

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt with the same inputs can end otherwise."""
        return self not in PERMANENT_EXIT_CODES and self is not ExitCode.SUCCEEDED

    @property
    def reason(self) -> Reason:
        """The condition reason that this exit code becomes."""
        return Reason.OUT_OF_MEMORY if self is ExitCode.KILLED else Reason[self.name]


PERMANENT_EXIT_CODES = frozenset(code for code in ExitCode if 10 <= code <= 39)
"""Exit codes after which the run is not tried again; the Job's podFailurePolicy lists them."""


class MetricResult(StatusModel):
    """One evaluation metric before and after training. Numbers are strings, as Kubernetes APIs have no floats."""

    name: str = Field(max_length=64, description="Name of the metric: loss, perplexity or exactMatch.")
    before: str | None = Field(default=None, max_length=32, description="Value of the base model.")
    after: str | None = Field(default=None, max_length=32, description="Value with the adapter.")


class Sample(StatusModel):
    """The answers to one prompt before and after training, cut to 160 characters."""

    prompt: str = Field(max_length=MAX_SAMPLE_CHARS, description="The prompt.")
    before: str = Field(max_length=MAX_SAMPLE_CHARS, description="Answer of the base model.")
    after: str = Field(max_length=MAX_SAMPLE_CHARS, description="Answer with the adapter.")


class Outcome(StatusModel):
    """What the trainer leaves in the termination message, and the operator reads."""

    run_id: str = Field(max_length=10, description="Id of the run.")
    exit_code: int = Field(description="The exit code, as loraline_api.outcome.ExitCode has it.")
    message: str = Field(
        default="", max_length=MAX_MESSAGE_CHARS, description="One sentence: what, value, limit, remedy."
    )
    version: str | None = Field(default=None, max_length=12, description="Version of the published adapter.")
    uri: str | None = Field(default=None, max_length=1024, description="URI of the published adapter.")
    reused: bool = Field(default=False, description="The adapter of this run was there already; nothing was trained.")
    steps: int = Field(default=0, ge=0, description="Optimizer steps done.")
    train_loss: str | None = Field(default=None, max_length=32, description="Training loss of the last logged step.")
    tokens_per_second: int | None = Field(default=None, description="Mean tokens per second of training.")
    trainable_parameters: int | None = Field(default=None, description="Parameters of the adapter.")
    total_parameters: int | None = Field(default=None, description="Parameters of the base model.")
    checkpoint: CheckpointProgress | None = Field(
        default=None, description="What the attempt was continued from, and what it has saved."
    )
    metrics: list[MetricResult] = Field(default=[], max_length=16, description="Evaluation before and after.")
    samples: list[Sample] = Field(default=[], max_length=MAX_SAMPLES, description="Answers before and after.")

    def encode(self) -> bytes:
        """The JSON text, at most 4,096 bytes: samples go first when it is too long, then the message is cut."""
        for candidate in (self, self.model_copy(update={"samples": []})):
            text = candidate.model_dump_json(by_alias=True, exclude_none=True).encode()
            if len(text) <= TERMINATION_MESSAGE_BYTES:
                return text
        cut: dict[str, object] = {"samples": [], "metrics": [], "checkpoint": None, "message": self.message[:300]}
        short = self.model_copy(update=cut)
        return short.model_dump_json(by_alias=True, exclude_none=True).encode()


def parse_outcome(text: str) -> Outcome | None:
    """The outcome in a termination message, or None when there is none (a kill, an old trainer, a runtime error)."""
    try:
        return Outcome.model_validate_json(text)
    except ValueError:
        return None
