"""`loraline-train run` and `check`: a manifest on this machine, without a cluster."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from loraline_api import run
from loraline_api.outcome import ExitCode
from loraline_trainer import chain, ending, errors, manifest, report
from loraline_trainer.data import preview
from loraline_trainer.places import Places
from loraline_trainer.progress import Tracker


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line; mappings by what they stand for.

    Attributes:
        secrets: folders of Secrets by their name in the manifest.
        claims: folders of pvc:// claims.
        data: files of ConfigMap keys, by `configmap/key`.
    """

    file: Path
    name: str | None
    work: Path | None
    secrets: dict[str, Path]
    claims: dict[str, Path]
    data: dict[str, Path]
    output: Path | None


def train(options: Options, console: Console) -> int:
    """Runs the manifest's fine-tune and prints a report; returns the exit code."""

    def work(recipe: run.Run, places: Places) -> int:
        tracker = Tracker()
        with report.progress_bar(tracker, console), ending.interruptible():
            outcome, done = ending.of(recipe, tracker, lambda: chain.attempt(recipe, places, tracker))
        if done is None:
            console.print(
                f"[bold red]{ExitCode(outcome.exit_code).reason.value}[/bold red]: {outcome.message}",
                highlight=False,
                soft_wrap=True,
            )
        else:
            report.show(done, tracker, console)
        return outcome.exit_code

    return with_recipe(options, console, work)


def check(options: Options, console: Console) -> int:
    """Checks the data and prints rendered examples with their loss mask; returns the exit code."""

    def work(recipe: run.Run, places: Places) -> int:
        _, renderer, prepared = chain.prepare(recipe, places, Tracker(), weights=False)
        lengths = sorted(len(row.ids) for row in prepared.train)
        console.print(
            f"{len(prepared.train)} training and {len(prepared.held_out)} held-out examples of format "
            f"{prepared.format.value}; {prepared.tokens} tokens, median {lengths[len(lengths) // 2]}, "
            f"longest {lengths[-1]} (training.maxSeqLength {recipe.training.max_seq_length})",
            highlight=False,
        )
        for line in preview.lines(renderer.tokenizer, prepared.train):
            console.print(line, markup=False, highlight=False)
        return ExitCode.SUCCEEDED

    return with_recipe(options, console, work)


def with_recipe(options: Options, console: Console, work: Callable[[run.Run, Places], int]) -> int:
    """Does something with the manifest's recipe; what goes wrong is printed and becomes the exit code."""
    try:
        folder = options.work or default_work(options.file)
        recipe, files = manifest.resolve(options.file, options.name, options.data, folder)
        places = Places(
            work=folder / recipe.id,
            secrets=_secrets(recipe, options.secrets),
            claims=options.claims,
            data=files,
            output=options.output,
        )
        return work(recipe, places)
    except errors.TrainerError as error:
        console.print(f"[bold red]{error.exit_code.reason.value}[/bold red]: {error}", highlight=False, soft_wrap=True)
        return error.exit_code


def default_work(file: Path) -> Path:
    """Scratch folder of a manifest, below the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "loraline" / "runs" / hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:10]


def _secrets(recipe: run.Run, folders: dict[str, Path]) -> dict[str, Path]:
    """Folders of Secrets by use; a Secret that has no folder is left to the environment's AWS_* and HF_TOKEN."""
    dataset = recipe.dataset
    uses = {
        "output": recipe.output.secret_ref,
        "base-model": recipe.base_model.secret_ref,
        "train": dataset.train.secret_ref,
        "eval": dataset.eval.secret_ref if dataset.eval is not None else None,
    }
    return {use: folders[ref.name] for use, ref in uses.items() if ref is not None and ref.name in folders}
