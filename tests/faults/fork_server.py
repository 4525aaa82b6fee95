"""Starts operator processes quickly: one process has everything imported, and each operator is a fork of it.

An operator of it is a process like any other, with a pid, a log and an end of its own; what it saves is the second and
more that Python needs to import what an operator needs. Run as a program, it is that first process.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.operator_process import REPOSITORY


class ForkServer:
    """The first process, seen from the harness."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count(1)
        self._pids: dict[int, asyncio.Future[int]] = {}
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._reader = asyncio.create_task(self._read())

    @staticmethod
    async def start(mischief: str = "") -> ForkServer:
        """Starts it; `mischief` names a seeded bug that its operators have."""
        folders = os.pathsep.join(str(REPOSITORY / folder) for folder in ("crds", "operator", "tests"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "faults.fork_server", mischief),
            env={**os.environ, "PYTHONPATH": folders},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return ForkServer(process)

    async def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> tuple[int, asyncio.Future[int]]:
        """A new operator: its pid, and its exit code when it has ended."""
        number = next(self._numbers)
        loop = asyncio.get_running_loop()
        self._pids[number], self._ends[number] = loop.create_future(), loop.create_future()
        order = {"number": number, "arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        end = self._ends[number]
        return await self._pids[number], end

    async def stop(self) -> None:
        """Ends it; its operators are ended by whoever started them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "pid" in told:
                self._pids.pop(told["number"]).set_result(told["pid"])
            else:
                self._ends.pop(told["number"]).set_result(told["code"])


def serve(mischief: str) -> None:
    """Forks an operator for each line of stdin, and tells pids and ends on stdout."""
    from faults import seeded
    from loraline_operator import __main__ as operator

    seeded.apply(mischief)
    gc.freeze()  # so that no fork copies all that was imported as soon as it collects garbage
    numbers: dict[int, int] = {}

    def reap(*_: Any) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            _tell({"number": numbers.pop(pid), "code": os.waitstatus_to_exitcode(status)})

    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the harness' matter, which closes stdin
    for line in sys.stdin:
        order = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _become(operator.main, order)
        numbers[pid] = order["number"]
        _tell({"number": order["number"], "pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    for pid in tuple(numbers):  # nobody is left who would end them
        os.kill(pid, signal.SIGKILL)


def _become(main: Any, order: Any) -> None:
    """The fork's part: it runs the operator and ends with its exit code."""
    code = 1
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(order["environment"])
        code = main(order["arguments"])
    finally:
        sys.stderr.flush()
        os._exit(code)


def _tell(message: Mapping[str, object]) -> None:
    os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else "")
