"""What an attempt is told beside the run's inputs: nothing here changes the adapter that comes out."""

from __future__ import annotations

from dataclasses import dataclass, field

from loraline_api.finetune import Checkpoint, MemoryProfile


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an attempt.

    Attributes:
        attempt: its number, from 1; None takes the one after that of the checkpoint.
        gpus: GPUs that the pod was given.
        memory_profile: how training spends GPU memory.
    """

    attempt: int | None = None
    gpus: int = 0
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    memory_profile: MemoryProfile = MemoryProfile.AUTO
