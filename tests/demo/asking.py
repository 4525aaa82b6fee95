"""A client of the served model that runs in the cluster: asks through the Service and remembers every answer."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self, cast

from demo.kubectl import Kubectl, KubectlError
from demo.store import CLIENT

SCRIPT = Path(__file__).parent / "inside" / "ask.py"
MAX_TOKENS = 80


class Answer(NamedTuple):
    """What came back for a question; status 0 is a broken connection."""

    question: str
    status: int
    version: str | None
    text: str
    error: str
    seconds: float


def ask_once(kubectl: Kubectl, url: str, model: str, messages: Sequence[str]) -> list[Answer]:
    """The answers to these messages, in their order."""
    stdin = json.dumps({"questions": list(messages)}) + "\n"
    text = kubectl.run(*kubectl.python(CLIENT, SCRIPT, "--once", url, model, str(MAX_TOKENS)), stdin=stdin)
    answers = {answer.question: answer for answer in map(parse, text.splitlines())}
    return [answers[message] for message in messages]


def parse(line: str) -> Answer:
    """One line of the client's output."""
    return Answer(**json.loads(line))


class Asking:
    """Asks while it is entered, one question after the other; leaving it waits for the answers that are under way."""

    def __init__(self, kubectl: Kubectl, url: str, model: str, messages: Sequence[str], *, rest_s: float = 0.0) -> None:
        self._kubectl = kubectl
        self._arguments = (url, model, str(MAX_TOKENS))
        self._messages = list(messages)
        self._answers: list[Answer] = []
        self._pace = {"workers": 1, "rest_s": rest_s}
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._process = self._kubectl.start(*self._kubectl.python(CLIENT, SCRIPT, *self._arguments))
        self._reader.start()
        self._write({"questions": self._messages})
        self._write(self._pace)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._running as process:
            if kind is None:
                # In kubectl 1.37 the end of stdin keeps the deadline of the last write: after 60 s it never arrives.
                self._write(self._pace)
            self._pipe.close()
            if kind is not None:
                process.terminate()
            self._reader.join()
            if process.wait() != 0 and kind is None:
                raise KubectlError(f"the asking client ended with exit code {process.returncode}")

    def hurry(self, workers: int) -> None:
        """So many questions under way at once from now on, at most 4, without rest."""
        self._pace = {"workers": workers, "rest_s": 0.0}
        self._write(self._pace)

    @property
    def answers(self) -> list[Answer]:
        """The answers so far."""
        return list(self._answers)

    def versions(self) -> Counter[str]:
        """Good answers so far, by the version that gave them."""
        return Counter(answer.version or "" for answer in self.answers if answer.status == 200)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        return cast("subprocess.Popen[bytes]", self._process)

    @property
    def _pipe(self) -> IO[bytes]:
        return cast("IO[bytes]", self._running.stdin)

    def _write(self, line: Mapping[str, object]) -> None:
        try:
            self._pipe.write(json.dumps(line).encode() + b"\n")
            self._pipe.flush()
        except BrokenPipeError as error:
            raise KubectlError(f"the asking client in pod {CLIENT} is gone; its last words stand above") from error

    def _read(self) -> None:
        for line in cast("IO[bytes]", self._running.stdout):
            self._answers.append(parse(line.decode()))
