"""What a checkpoint holds beside the files of transformers' Trainer: the numbers that its loop does not know."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from pydantic import Field

from loraline_api.model import StatusModel
from loraline_trainer.evaluation.scores import Scores

FILE = "loraline.json"
BEST_WEIGHTS = "best.safetensors"
"""Weights of the lowest held-out loss so far, when the run stops early."""


class Stopping(StatusModel):
    """Where early stopping stands."""

    best: float | None = Field(default=None, description="Lowest held-out loss so far.")
    worse: int = Field(default=0, description="Evaluations since then.")


class TrainingState(StatusModel):
    """The numbers of a checkpoint."""

    step: int = Field(description="Optimizer steps done.")
    is_over: bool = Field(description="Whether training has ended with this step.")
    tokens: int = Field(description="Tokens trained on.")
    seconds: float = Field(description="Seconds spent on these steps, over all attempts.")
    loss: float | None = Field(description="Training loss of the last step.")
    micro_batch_size: int = Field(description="Sequences of a forward pass.")
    base_scores: Scores | None = Field(default=None, description="What the base model measured up to.")
    stopping: Stopping | None = Field(default=None, description="Where early stopping stands.")


def write(state: TrainingState, folder: Path) -> None:
    """Writes the state into a checkpoint's folder."""
    (folder / FILE).write_text(state.model_dump_json(by_alias=True, indent=2))


def read(folder: Path) -> TrainingState:
    """The state in a checkpoint's folder.

    Raises:
        ValueError: it is none.
        OSError: there is none.
    """
    return TrainingState.model_validate_json((folder / FILE).read_bytes())


def best_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the lowest held-out loss; none before the first evaluation."""
    file = folder / BEST_WEIGHTS
    return safetensors.torch.load_file(file) if file.is_file() else {}
