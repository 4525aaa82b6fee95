"""Runs commands side by side, so that one that waits leaves the cores to another; shows their lines as they come.

side_by_side.py NAME=COMMAND...    COMMAND is a line for bash. The exit code is 1 when any of them failed; the others go
on to their end, so that one run shows all that is wrong. Ctrl-C and SIGTERM end them all.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

GRACE_S = 10.0
LOOK_S = 1.0


def start(command: str) -> subprocess.Popen[str]:
    """Starts a command in a session of its own: there the kernel gives it a share of the cores of its own as well."""
    return subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def show(name: str, process: subprocess.Popen[str], ended: queue.SimpleQueue[bool]) -> None:
    """Prints each line of a command behind its name, then its verdict; says to `ended` that it did."""
    begin = time.monotonic()
    assert process.stdout is not None
    for line in process.stdout:
        print(f"{name} | {line}", end="", flush=True)
    code = process.wait()
    verdict = "ok" if code == 0 else f"FAILED with exit code {code}"
    print(f"== {name}: {verdict} after {time.monotonic() - begin:.0f} s", flush=True)
    ended.put(True)


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Ends what still runs, with all that it started. A bash that just becomes its last command loses a SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)


def next_of(ended: queue.SimpleQueue[bool]) -> bool:
    """The next word. A signal that comes just before `get` begins to wait is only handled once that ends."""
    while True:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=LOOK_S)


def main(jobs: Sequence[str]) -> int:
    """Starts every job and waits for all of them."""
    ended: queue.SimpleQueue[bool] = queue.SimpleQueue()
    # Not an exception: between the start of a process and the line that remembers it, that would lose the process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.put(False))
    named = [job.partition("=")[::2] for job in jobs]
    print(f"== side by side: {', '.join(name for name, _ in named)}", flush=True)
    processes = [start(command) for _, command in named]
    for (name, _), process in zip(named, processes, strict=True):
        threading.Thread(target=show, args=(name, process, ended)).start()
    for _ in processes:
        if not next_of(ended):  # interrupted
            end_all(processes)
            return 130
    failed = [name for (name, _), process in zip(named, processes, strict=True) if process.wait() != 0]
    if failed:
        print(f"== failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
