"""What `loraline-train run` shows on the terminal: a progress bar while it works, tables at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from loraline_api.outcome import Outcome
from loraline_api.progress import Progress, Stage
from loraline_trainer import numbers
from loraline_trainer.ending import Report
from loraline_trainer.progress import Tracker


@contextmanager
def progress_bar(tracker: Tracker, console: Console) -> Iterator[None]:
    """Shows the tracker while the block runs."""
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(Stage.STARTING.value, total=100, detail="")

        def show(progress: Progress) -> None:
            bar.update(task, description=progress.stage.value, completed=progress.percent, detail=_detail(progress))

        tracker.listeners.append(show)
        try:
            yield
        finally:
            tracker.listeners.remove(show)


def _detail(progress: Progress) -> str:
    if progress.stage is not Stage.TRAINING or not progress.step:
        return ""
    left = numbers.seconds(progress.eta_seconds or 0)
    return (
        f"step {progress.step}/{progress.total_steps}  loss {progress.loss}  "
        f"{progress.tokens_per_second} tokens/s  {left} left"
    )


def show(report: Report, tracker: Tracker, console: Console) -> None:
    """Prints metrics, answers, stages and where the adapter lies."""
    outcome = report.outcome
    if outcome.metrics:
        table = Table("metric", "before", "after", title="held-out examples", title_justify="left")
        for metric in outcome.metrics:
            table.add_row(metric.name, metric.before or "-", metric.after or "-")
        console.print(table)
    _show_samples(outcome, console)
    if report.trained is not None:
        stages = ", ".join(
            f"{stage.value} {numbers.seconds(spent)}" for stage, spent in tracker.stage_seconds.items() if spent >= 0.5
        )
        console.print(f"stages: {stages}", highlight=False)
        console.print(
            f"{report.trained.tokens} tokens at {outcome.tokens_per_second} tokens/s, "
            f"{outcome.trainable_parameters or 0:,} of {outcome.total_parameters or 0:,} parameters trained, "
            f"peak memory {numbers.size(report.peak_bytes)}",
            highlight=False,
        )
        _show_engine(tracker.now, console)
    console.print(f"[bold]{outcome.message}[/bold]", highlight=False)
    console.print(f"adapter: {outcome.uri}", highlight=False, soft_wrap=True)


def _show_engine(progress: Progress, console: Console) -> None:
    if progress.engine is not None:
        plan = f"; {progress.memory_plan}" if progress.memory_plan is not None else ""
        console.print(f"engine {progress.engine}{plan}", highlight=False)


def _show_samples(outcome: Outcome, console: Console) -> None:
    if not outcome.samples:
        return
    table = Table("prompt", "before", "after", title="answers", title_justify="left", show_lines=True)
    for sample in outcome.samples:
        table.add_row(sample.prompt, sample.before, sample.after)
    console.print(table, markup=False)
