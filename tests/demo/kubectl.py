"""kubectl as a typed function: one cluster, text or JSON out, errors with kubectl's own words.

It knows no kinds; the demo and the end-to-end tests say what they want.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Object = dict[str, Any]

T = TypeVar("T")


class KubectlError(Exception):
    """A command that kubectl refused, with what it said."""


class TimedOut(Exception):
    """Something that did not become true in time."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl, bound to a cluster and a namespace."""

    program: Path
    namespace: str
    kubeconfig: Path | None = None
    context: str | None = None

    def command(self, *args: str) -> list[str]:
        """The command line, for callers that start it themselves."""
        context = ["--context", self.context] if self.context else []
        return [str(self.program), *context, "--namespace", self.namespace, *args]

    def environment(self) -> dict[str, str]:
        """The environment for that command line."""
        return os.environ | ({"KUBECONFIG": str(self.kubeconfig)} if self.kubeconfig else {})

    def run(self, *args: str, stdin: str | None = None) -> str:
        """Output of a command.

        Raises:
            KubectlError: kubectl ended with an error.
        """
        done = subprocess.run(
            self.command(*args), env=self.environment(), input=stdin, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise KubectlError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """A command in the background, with pipes to and from it."""
        return subprocess.Popen(
            self.command(*args), env=self.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def get(self, kind: str, name: str) -> Object | None:
        """The object, or None."""
        text = self.run("get", kind, name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text.strip() else None

    def items(self, kind: str, selector: str = "", *, fields: str = "") -> list[Object]:
        """The objects of a kind, with these labels and fields where given."""
        args = [*(["--selector", selector] if selector else []), *(["--field-selector", fields] if fields else [])]
        return list(json.loads(self.run("get", kind, *args, "-o", "json"))["items"])

    def items_everywhere(self, kind: str) -> list[Object]:
        """The objects of a kind in all namespaces."""
        return list(json.loads(self.run("get", kind, "--all-namespaces", "-o", "json"))["items"])

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Server-side apply."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def python(self, pod: str, script: Path, *args: str) -> list[str]:
        """Arguments that run a Python script of ours in a pod."""
        return ["exec", "--stdin", pod, "--", "python3", "-u", "-c", script.read_text(encoding="utf-8"), *args]


def wait_for(what: str, look: Callable[[], T | None], *, timeout_s: float, every_s: float = 1.0) -> T:
    """What `look` finds, as soon as it finds something.

    Raises:
        TimedOut: it found nothing in time.
    """
    end = time.monotonic() + timeout_s
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > end:
            raise TimedOut(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)


def condition(item: Object | None, kind: str) -> Object | None:
    """A condition of an object's status."""
    conditions: Sequence[Object] = (item or {}).get("status", {}).get("conditions", ())
    return next((entry for entry in conditions if entry["type"] == kind), None)


def is_true(item: Object | None, kind: str) -> bool:
    """Whether that condition is True for the object's present generation."""
    found = condition(item, kind)
    if item is None or found is None:
        return False
    return bool(found["status"] == "True" and found.get("observedGeneration") == item["metadata"]["generation"])
