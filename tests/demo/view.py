"""How the demo looks: headings, a live view of a run and its rollout, and tables of what was found.

On a terminal the view is drawn anew in place; elsewhere (CI) it is one line for each change, at most every ten seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.kubectl import Object, condition

LINE_EVERY_S = 10.0

console = Console(highlight=False)


def heading(text: str) -> None:
    """A new part of the story."""
    console.print(f"\n[bold]{text}[/bold]")


def say(text: str) -> None:
    """A sentence."""
    console.print(text, markup=False, soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A small table."""
    say(f"\n{title}")
    drawn = Table(*columns)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)


class Watch:
    """The live view of a fine-tune and a deployment while it is entered."""

    def __init__(self) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        self._begin = time.monotonic()
        self._last_line = ""
        self._last_time = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, finetune: Object | None, deployment: Object | None, note: str = "") -> None:
        """Draws this state of affairs."""
        now = time.monotonic()
        seconds = int(now - self._begin)
        if self._live:
            self._live.update(drawn(finetune, deployment, seconds, note))
            return
        line = f"{run_line(finetune)} | {serving_line(deployment)}{f' | {note}' if note else ''}"
        has_news = run_stage(line) != run_stage(self._last_line)
        if has_news or (line != self._last_line and now - self._last_time > LINE_EVERY_S):
            say(f"{seconds:4d} s  {line}")
            self._last_line, self._last_time = line, now


def run_stage(line: str) -> str:
    """The part of a run's line that changes with its stage, and not with every step."""
    return line.partition("%")[0].rstrip("0123456789")


def drawn(finetune: Object | None, deployment: Object | None, seconds: int, note: str) -> RenderableType:
    """The live view as rich draws it."""
    percent = progress_of(finetune).get("percent", 0)
    rows = Table.grid(padding=(0, 2))
    rows.add_row("fine-tune", ProgressBar(total=100, completed=percent, width=30), Text(run_line(finetune)))
    rows.add_row("serving", "", Text(serving_line(deployment)))
    if note:
        rows.add_row("client", "", Text(note))
    return Group(rows, Text(f"{seconds} s", style="dim"))


def progress_of(finetune: Object | None) -> Object:
    """status.progress."""
    return dict((finetune or {}).get("status", {}).get("progress") or {})


def run_line(finetune: Object | None) -> str:
    """The run in one line: phase, stage, step, loss, speed and time left, and what stands in its way."""
    status = (finetune or {}).get("status", {})
    phase = status.get("phase", "Pending")
    if phase == "Succeeded":
        return f"Succeeded: version {status.get('adapter', {}).get('version', '')}"
    progress = progress_of(finetune)
    stage = progress.get("stage")
    if phase != "Running" or not stage:
        ready = condition(finetune, "Ready") or {}
        return f"{phase}: {ready.get('message', 'not seen yet')}"
    if stage != "Training":
        return str(stage)
    step = f"step {progress.get('step', 0)}/{progress.get('totalSteps', '?')}"
    parts = [f"Training {progress.get('percent', 0)}%", step]
    for key, text in (("loss", "loss {}"), ("tokensPerSecond", "{} tokens/s"), ("etaSeconds", "{} s left")):
        if progress.get(key) is not None:
            parts.append(text.format(progress[key]))
    return ", ".join(parts)


def serving_line(deployment: Object | None) -> str:
    """The deployment in one line: phase, what its routes serve, and what it waits for."""
    status = (deployment or {}).get("status", {})
    routes = status.get("routes", [])
    served = ", ".join(f"{route['name']} = {route.get('version') or 'nothing yet'}" for route in routes)
    ready = condition(deployment, "Ready") or {}
    message = "" if ready.get("status") == "True" else ready.get("message", "not seen yet")
    return "; ".join(part for part in (status.get("phase", "Pending"), served, message) if part)
