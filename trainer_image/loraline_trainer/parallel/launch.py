"""Starts the processes of a pod that train with those of other pods, by torchrun's own launcher.

The environment is torchrun's: PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT. Each
process leaves its outcome in a file; the launcher takes the one that tells most and ends with its exit code.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path

from loraline_api import pods
from loraline_api.outcome import ExitCode, Outcome, parse_outcome
from loraline_trainer import places

log = logging.getLogger(__name__)

SHUTDOWN_S = 110
"""Time from SIGTERM to SIGKILL of the processes: the pod's 120 s less what the launcher needs."""

SIGNALLED = 128
"""What a shell adds to the number of the signal that ended a process."""


def is_asked() -> bool:
    """Whether this is the one process of a pod that is to start others."""
    nodes, each = (int(os.environ.get(name, "1")) for name in ("PET_NNODES", "PET_NPROC_PER_NODE"))
    return nodes * each > 1 and "TORCHELASTIC_RUN_ID" not in os.environ


def outcomes(root: Path) -> Path:
    """The folder where the processes of a pod leave their outcomes."""
    return places.in_pod(root).work / "outcomes"


def main(arguments: list[str], root: Path) -> int:
    """Runs `loraline-train` with these arguments in every process; returns the exit code of this pod.

    Args:
        root: folder that stands for the pod's root folder.
    """
    shutil.rmtree(outcomes(root), ignore_errors=True)
    outcomes(root).mkdir(parents=True)
    code, told = _run(arguments, outcomes(root))
    if told is not None and (told.version or code):  # those that only train along have nothing to tell
        (root / str(pods.TERMINATION_LOG).lstrip("/")).write_bytes(told.encode())
    return code


def _run(arguments: list[str], outcomes: Path) -> tuple[int, Outcome | None]:
    """Exit code and outcome of this pod."""
    # Only this process needs torch's launcher, and nothing else of the trainer
    from torch import distributed
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    options = ["--shutdown-timeout", str(SHUTDOWN_S), "--module", "loraline_trainer", *arguments]
    config, command, command_arguments = torchrun.config_from_args(torchrun.parse_args(options))
    try:
        elastic_launch(config, command)(*command_arguments)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's handler stays, and would end a pod that is done
    except SignalException as signalled:
        log.warning("%s reached the processes of this pod", signalled.sigval.name)
        return _told_most(outcomes, ExitCode.INTERRUPTED)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        log.warning("process %d ended first, with exit code %d", rank, failure.exitcode)
        code = failure.exitcode if failure.exitcode >= 0 else SIGNALLED - failure.exitcode
        outcome = _read(outcomes / f"{rank}.json")
        return (outcome.exit_code, outcome) if outcome is not None else (code, None)
    except (distributed.DistStoreError, distributed.DistNetworkError, TimeoutError) as error:
        message = (
            f"the {os.environ.get('PET_NNODES')} pods of this attempt did not find each other at "
            f"{os.environ.get('PET_MASTER_ADDR')}: {str(error)[:300]}; check that all of them could be scheduled"
        )
        return ExitCode.UNEXPECTED_ERROR, Outcome(run_id="", exit_code=ExitCode.UNEXPECTED_ERROR, message=message)
    return ExitCode.SUCCEEDED, _read(outcomes / "0.json")


def _told_most(outcomes: Path, code: ExitCode) -> tuple[int, Outcome | None]:
    """The outcome of the first process of this pod that left one."""
    for path in sorted(outcomes.glob("*.json"), key=lambda path: int(path.stem)):
        outcome = _read(path)
        if outcome is not None:
            return outcome.exit_code, outcome
    return code, None


def _read(path: Path) -> Outcome | None:
    return parse_outcome(path.read_text()) if path.is_file() else None
