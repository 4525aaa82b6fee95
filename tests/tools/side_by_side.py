"""Runs commands side by side, so that one that waits leaves the cores to another; shows each one's output at its end.

side_by_side.py NAME=COMMAND...    COMMAND is a line for bash. The exit code is 1 when any of them failed; the others go
on to their end, so that one run shows all that is wrong. Ctrl-C ends them all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

_printing = threading.Lock()


_running: list[subprocess.Popen[str]] = []
GRACE_S = 10.0


def start(command: str) -> subprocess.Popen[str]:
    """Starts a command in a process group of its own."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    _running.append(process)
    return process


def show(name: str, process: subprocess.Popen[str], failed: list[str]) -> None:
    """Prints the output of a command as one block when it ends."""
    begin = time.monotonic()
    output, _ = process.communicate()
    if process.returncode != 0:
        failed.append(name)
    verdict = "ok" if process.returncode == 0 else f"FAILED with exit code {process.returncode}"
    with _printing:
        print(f"{output.rstrip()}\n== {name}: {verdict} after {time.monotonic() - begin:.0f} s", flush=True)


def end_all() -> None:
    """Ends what still runs, with all that it started. A bash that just becomes its last command loses a SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in _running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        for process in _running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)


def main(jobs: Sequence[str]) -> int:
    """Starts every job and waits for all of them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    named = [job.partition("=")[::2] for job in jobs]
    print(f"== side by side: {', '.join(name for name, _ in named)}", flush=True)
    failed: list[str] = []
    threads: list[threading.Thread] = []
    try:
        for name, command in named:
            threads.append(threading.Thread(target=show, args=(name, start(command), failed)))
            threads[-1].start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        end_all()
        return 130
    if failed:
        print(f"== failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
