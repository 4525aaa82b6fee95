"""`loraline-train job`: one attempt in a training pod, from run.json to termination message and exit code."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from loraline_api import pods, run
from loraline_api.finetune import MemoryProfile
from loraline_api.outcome import ExitCode, Outcome
from loraline_api.progress import PROGRESS_PORT
from loraline_trainer import chain, ending, errors, places, server
from loraline_trainer.progress import Tracker
from loraline_trainer.storage.s3 import first_line

log = logging.getLogger(__name__)


def main(
    gpus: int = 0,
    root: Path = Path("/"),
    port: int = PROGRESS_PORT,
    *,
    profile: MemoryProfile = MemoryProfile.AUTO,
) -> int:
    """Makes the attempt and returns its exit code.

    Args:
        gpus: GPUs that the pod asked for.
        root: folder that stands for the pod's root folder.
        port: port of the progress server.
        profile: how training spends GPU memory.
    """
    tracker = Tracker()
    here = places.in_pod(root)
    file = root / str(pods.RUN_DIR / run.RUN_KEY).lstrip("/")
    try:
        recipe = run.Run.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        message = (
            f"{file} is no run that this trainer reads: {first_line(error)}; use operator and trainer of one version"
        )
        outcome = Outcome(run_id="", exit_code=ExitCode.INVALID_SPEC, message=message)
    else:
        log.info("run %s of %s/%s", recipe.id, recipe.namespace, recipe.name)
        with server.serving(tracker, port), ending.interruptible():
            outcome, _ = ending.of(recipe, tracker, lambda: _attempt(recipe, here, tracker, gpus, profile))
    log.info("ended with %s: %s", ExitCode(outcome.exit_code).name, outcome.message)
    (root / str(pods.TERMINATION_LOG).lstrip("/")).write_bytes(outcome.encode())
    return outcome.exit_code


def _attempt(recipe: run.Run, here: places.Places, tracker: Tracker, gpus: int, profile: MemoryProfile) -> chain.Report:
    seen = torch.cuda.device_count()
    if seen < gpus:
        raise errors.GpuNotFound(
            f"compute.gpus is {gpus} and CUDA sees {seen} in this pod; check the node's driver and device plugin, "
            f"or set compute.gpus to 0 to train on CPUs"
        )
    return chain.attempt(recipe, here, tracker, profile=profile)
