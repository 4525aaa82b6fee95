"""Commands side by side: lines are shown as they come, a failure stops no other, and none outlives an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "side_by_side.py"


def start(*jobs: str) -> subprocess.Popen[str]:
    """The program with these jobs."""
    return subprocess.Popen([sys.executable, str(SCRIPT), *jobs], stdout=subprocess.PIPE, text=True)


def test_a_failure_stops_no_other_and_is_named_at_the_end(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # The good one ends only after the bad one: the bad one's exit trap lets it go.
    process = start(f"bad=trap 'echo go >{fifo}' EXIT; false; echo never", f"good=read word <{fifo}; echo got $word")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "== bad: FAILED with exit code 1 after " in output
    assert "good | got go\n" in output
    assert "== good: ok after " in output
    assert output.endswith("== failed: bad\n")
    assert "never" not in output


def test_all_good_is_exit_code_0() -> None:
    process = start("one=echo 1", "two=echo 2 | cat")
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_all_that_runs(number: signal.Signals, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start(f"long=echo $$ >{fifo}; sleep 600")
    pid = int(fifo.read_text())
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not Path(f"/proc/{pid}").exists()


def test_lines_are_shown_as_they_come(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start(f"slow=echo first; read word <{fifo}; echo $word")
    assert process.stdout is not None
    process.stdout.readline()
    assert process.stdout.readline() == "slow | first\n"
    fifo.write_text("second\n")
    output, _ = process.communicate(timeout=60)
    assert output.startswith("slow | second\n")
