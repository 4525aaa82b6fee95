"""Interrupts attempts at chosen steps, in this process, and compares what comes of them. No tests here."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loraline_api.outcome import ExitCode, Outcome
from loraline_trainer.training.callbacks import Watch
from loraline_trainer.training.trainer import Trainer
from trainer.builders import BUCKET, Pod, recipe


class Killed(BaseException):
    """A SIGKILL, as far as one can be had in one process: the attempt does nothing more."""


def output(pod: Pod, prefix: str) -> dict[str, Any]:
    """spec.output below another prefix: another run of the same recipe, whose adapter has the same version."""
    return {"uri": f"s3://{BUCKET}/{prefix}", "endpoint": pod.s3.endpoint, "secretRef": {"name": "storage"}}


def uninterrupted(pod: Pod, lines: str, **changes: Any) -> Outcome:
    """The outcome of a run of which no attempt was interrupted."""
    other = Pod(pod.root / "uninterrupted", pod.base, pod.s3)
    told = other.holding(recipe(pod.s3.endpoint, output=output(pod, f"{pod.root.parent.name}-whole"), **changes), lines)
    done = told.attempt()
    assert done.exit_code == ExitCode.SUCCEEDED, done.message
    return done


def interrupted(pod: Pod, lines: str, **changes: Any) -> Pod:
    """The pod of a run of the same recipe, of which attempts will be."""
    return pod.holding(recipe(pod.s3.endpoint, output=output(pod, pod.root.parent.name), **changes), lines)


def checkpoints(pod: Pod) -> list[Path]:
    """Folders of the complete checkpoints of the interrupted run, oldest step first."""
    return sorted(
        path.parent for path in (pod.s3.data / BUCKET / pod.root.parent.name).glob("checkpoints/*/*/manifest.json")
    )


def steps(pod: Pod) -> list[int]:
    """The steps of these checkpoints."""
    return [int(folder.name.partition("-")[0]) for folder in checkpoints(pod)]


@contextlib.contextmanager
def killed_after(step: int) -> Iterator[None]:
    """Kills the attempt after that step, before anything else learns of it."""

    def at(number: int) -> None:
        if number == step:
            raise Killed

    with at_each_step(at), pytest.raises(Killed):
        yield


@contextlib.contextmanager
def sigterm_after(step: int) -> Iterator[None]:
    """Sends SIGTERM to this process at the end of that step."""

    def at(number: int) -> None:
        if number == step:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    with at_each_step(at):
        yield


@contextlib.contextmanager
def sigterm_within(step: int) -> Iterator[None]:
    """Sends SIGTERM to this process after the first micro-batch of that step."""
    with pytest.MonkeyPatch.context() as patch:
        whole: Any = Trainer.training_step

        def sending(self: Trainer, *arguments: Any, **named: Any) -> Any:
            if self.state.global_step == step - 1:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return whole(self, *arguments, **named)

        patch.setattr(Trainer, "training_step", sending)
        yield


@contextlib.contextmanager
def at_each_step(do: Callable[[int], None]) -> Iterator[None]:
    """Does something at the end of each step, before it can be saved."""
    with pytest.MonkeyPatch.context() as patch:
        whole: Any = Watch.on_log

        def interrupting(self: Watch, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
            whole(self, args, state, control, logs, **named)
            if logs is not None and "loss" in logs:
                do(int(state.global_step))

        patch.setattr(Watch, "on_log", interrupting)
        yield


@contextlib.contextmanager
def loss_is_nan_at(step: int) -> Iterator[None]:
    """Makes the loss of a step NaN."""
    with pytest.MonkeyPatch.context() as patch:
        whole: Any = Trainer.training_step

        def broken(self: Trainer, *arguments: Any, **named: Any) -> Any:
            loss = whole(self, *arguments, **named)
            return loss * math.nan if self.state.global_step == step - 1 else loss

        patch.setattr(Trainer, "training_step", broken)
        yield
