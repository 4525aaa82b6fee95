"""A signal ends the work, and never takes away an outcome that is there already."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

from loraline_api.outcome import ExitCode
from loraline_trainer import ending, errors
from loraline_trainer.interruption import Interruption
from loraline_trainer.parallel.world import World
from loraline_trainer.progress import Tracker
from trainer.builders import recipe


class Late(World):
    """A signal comes while the end is being told."""

    def tell_failure(self, text: str) -> None:
        signal.raise_signal(signal.SIGTERM)


def exit_code(work: Callable[[], None]) -> int:
    """The exit code of work whose end meets a signal."""
    interruption = Interruption()
    with interruption.heeded():
        outcome, _ = ending.of(recipe("http://127.0.0.1:1"), Tracker(), interruption, work, Late())
    return outcome.exit_code


def test_a_signal_during_the_work_interrupts_it() -> None:
    assert exit_code(lambda: signal.raise_signal(signal.SIGTERM)) == ExitCode.INTERRUPTED


def test_a_signal_after_the_work_leaves_its_outcome() -> None:
    def work() -> None:
        raise errors.DatasetInvalid("line 1 is not JSON")

    assert exit_code(work) == ExitCode.DATASET_INVALID


def test_a_signal_while_the_process_ends_leaves_its_exit_code() -> None:
    """The soak met a trainer that was done and ended by SIGTERM, without an outcome."""
    program = (
        "import signal, sys; from loraline_trainer.interruption import Interruption\n"
        "with Interruption().heeded(is_last=True): pass\n"
        "signal.raise_signal(signal.SIGTERM); sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 7
