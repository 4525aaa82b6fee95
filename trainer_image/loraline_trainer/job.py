"""`loraline-train job`: one attempt in a training pod, from run.json to termination message and exit code."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import torch

from loraline_api import pods, run
from loraline_api.outcome import ExitCode, Outcome
from loraline_api.progress import PROGRESS_PORT
from loraline_trainer import chain, ending, errors, places, server
from loraline_trainer.interruption import Interruption
from loraline_trainer.parallel import launch
from loraline_trainer.parallel.world import ALONE, World, join
from loraline_trainer.progress import Tracker
from loraline_trainer.settings import Settings
from loraline_trainer.storage.s3 import first_line

log = logging.getLogger(__name__)


def main(settings: Settings, root: Path = Path("/"), port: int = PROGRESS_PORT, *, is_last: bool = False) -> int:
    """Makes the attempt, or this process's part of it, and returns its exit code.

    Args:
        root: folder that stands for the pod's root folder.
        port: port of the progress server.
        is_last: the process ends with the attempt: a SIGTERM after its end changes nothing any more.
    """
    world = join()
    outcome = _made(settings, root, port, world, is_last=is_last)
    log.info("ended with %s: %s", ExitCode(outcome.exit_code).name, outcome.message)
    file = root / str(pods.TERMINATION_LOG).lstrip("/")
    if world is not ALONE:
        file = launch.outcomes(root) / f"{world.rank}.json"
    file.write_bytes(outcome.encode())
    return outcome.exit_code


def _made(settings: Settings, root: Path, port: int, world: World, *, is_last: bool) -> Outcome:
    """The outcome of this process."""
    tracker, interruption = Tracker(), Interruption()
    here = places.in_pod(root)
    file = root / str(pods.RUN_DIR / run.RUN_KEY).lstrip("/")
    try:
        recipe = run.Run.model_validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        message = (
            f"{file} is no run that this trainer reads: {first_line(error)}; use operator and trainer of one version"
        )
        return Outcome(run_id="", exit_code=ExitCode.INVALID_SPEC, message=message)
    log.info("run %s of %s/%s", recipe.id, recipe.namespace, recipe.name)

    def attempt() -> ending.Report | None:
        _check_gpus(settings.gpus)
        return chain.attempt(recipe, here, tracker, interruption, settings=settings, world=world)

    with contextlib.ExitStack() as stack:
        if world.is_first:
            stack.enter_context(server.serving(tracker, port))
        stack.enter_context(interruption.heeded(is_last=is_last))
        outcome, _ = ending.of(recipe, tracker, interruption, attempt, world)
    return outcome


def _check_gpus(asked: int) -> None:
    seen = torch.cuda.device_count()
    if seen < asked:
        raise errors.GpuNotFound(
            f"compute.gpus is {asked} and CUDA sees {seen} in this pod; check the node's driver and device plugin, "
            f"or set compute.gpus to 0 to train on CPUs"
        )
