"""The body of a process that the soak starts and kills. Imported once, before the processes fork."""

from __future__ import annotations

import sys
from pathlib import Path

from loraline_api.finetune import Checkpoint
from loraline_trainer import job
from loraline_trainer.settings import Settings


def attempt(root: Path, port: int, checkpoint: Checkpoint) -> None:
    """One attempt of a pod, as `loraline-train job` makes it."""
    sys.exit(job.main(Settings(checkpoint=checkpoint), root, port, is_last=True))
