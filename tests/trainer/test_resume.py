"""A run that was interrupted, however often and wherever, ends in the very adapter of one that was not."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cluster import fixture
from loraline_api import pods, run
from loraline_api.finetune import Checkpoint
from loraline_api.outcome import ExitCode
from loraline_api.progress import CheckpointProgress, Progress
from loraline_trainer.evaluation import evaluate
from loraline_trainer.evaluation.scores import Scores
from loraline_trainer.progress import Tracker
from loraline_trainer.storage import stores
from loraline_trainer.storage.retries import Patience
from trainer.builders import BUCKET, SMALL, Pod
from trainer.interrupting import (
    at_each_step,
    checkpoints,
    interrupted,
    killed_after,
    loss_is_nan_at,
    sigterm_after,
    sigterm_within,
    steps,
    uninterrupted,
)

EVERY_TWO = Checkpoint(interval=2)
LONGER = {**SMALL["training"], "maxSteps": 12, "microBatchSize": 4}  # 36 rows: an epoch of 5 steps, the last one short
RANDOM: dict[str, Any] = {
    "adapter": {"rank": 4, "dropout": 0.2},
    "training": {**LONGER, "neftuneNoiseAlpha": 5.0, "scheduler": "linear", "warmupRatio": 0.2},
}
KINDS: list[Any] = [
    pytest.param(RANDOM, id="dropout and NEFTune, packed, on NF4"),
    pytest.param(
        {**RANDOM, "quantization": {"type": "none"}, "training": {**RANDOM["training"], "packing": False}},
        id="dropout and NEFTune, padded, on 16 bits",
    ),
    pytest.param(
        {"training": {**LONGER, "earlyStopping": {"patience": 2, "everySteps": 2, "minDelta": 100}}},
        id="early stopping, after the sixth step",
    ),
]


@pytest.mark.parametrize("changes", KINDS)
def test_an_interrupted_run_ends_in_the_same_adapter(pod: Pod, lines: str, changes: dict[str, Any]) -> None:
    whole = uninterrupted(pod, lines, **changes)
    assert whole.steps == (6 if "earlyStopping" in changes["training"] else 12)
    interrupted(pod, lines, **changes)
    chain: list[Callable[[], AbstractContextManager[None]]] = [
        lambda: sigterm_within(1),  # nothing is done yet but the base model's score
        lambda: killed_after(3),  # goes back to the checkpoint of step 2
        lambda: sigterm_within(4),  # within the accumulation of a step
        lambda: sigterm_after(5),  # the end of an epoch
        lambda: sigterm_within(6),  # before anything new is done: the checkpoint stays as it is
    ]
    for attempt, interruption in enumerate(chain, 1):
        with interruption():
            told = pod.attempt(attempt=attempt, checkpoint=EVERY_TWO)
            assert told.exit_code == ExitCode.INTERRUPTED, told.message
    last = pod.attempt(attempt=len(chain) + 1, checkpoint=EVERY_TWO)
    assert last.exit_code == ExitCode.SUCCEEDED, last.message
    assert last.version == whole.version
    assert (last.steps, last.train_loss, last.metrics) == (whole.steps, whole.train_loss, whole.metrics)
    assert last.checkpoint is not None
    assert last.checkpoint.resumed == "resumed from step 5 of attempt 4"
    assert checkpoints(pod) == []


def test_a_run_that_is_killed_at_random_steps_ends_in_the_same_adapter(pod: Pod, lines: str) -> None:
    whole = uninterrupted(pod, lines, **RANDOM)
    interrupted(pod, lines, **RANDOM)
    dice = random.Random(pod.root.name)
    reached = 0
    while reached < 11:
        reached = dice.randint(reached + 1, 12)
        with dice.choice([killed_after, sigterm_after])(reached):
            assert pod.attempt(checkpoint=EVERY_TWO).exit_code == ExitCode.INTERRUPTED
        reached = max([0, *steps(pod)])
    assert pod.attempt(checkpoint=EVERY_TWO).version == whole.version


def test_the_base_model_is_scored_once(pod: Pod, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[Any] = []
    evaluated = evaluate.evaluate

    def counting(*arguments: Any) -> Scores:
        scored.append(arguments)
        return evaluated(*arguments)

    monkeypatch.setattr(evaluate, "evaluate", counting)
    interrupted(pod, lines)
    with sigterm_after(2):
        pod.attempt()
    assert len(scored) == 1
    assert pod.attempt().exit_code == ExitCode.SUCCEEDED
    assert len(scored) == 2


def test_an_attempt_that_dies_after_training_does_not_train_again(
    pod: Pod, lines: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = {"metrics": ["loss"], "gates": [{"metric": "loss", "max": 0.001}]}
    interrupted(pod, lines, evaluation=gated)
    first = pod.attempt(attempt=1)
    assert first.exit_code == ExitCode.EVAL_BELOW_THRESHOLD
    assert steps(pod) == [4]
    with monkeypatch.context() as patch:
        patch.setattr("loraline_trainer.training.trainer.Trainer.train", None)
        second = pod.attempt(attempt=2)
    assert second.message == first.message
    assert (second.steps, second.train_loss) == (4, first.train_loss)


def test_s3_that_is_down_costs_checkpoints_and_not_the_run(
    tmp_path: Path, base: Path, lines: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, port = tmp_path / "s3", fixture.free_port()
    impatient = functools.partial(stores.S3Store, patience=Patience(limit_s=0.2, first_s=0.1))
    monkeypatch.setattr(stores, "S3Store", impatient)
    with contextlib.ExitStack() as running:
        server = running.enter_context(fixture.s3_server(folder, port))
        (server.data / BUCKET).mkdir()
        pod = Pod(tmp_path / "pod", base, server)
        whole = uninterrupted(pod, lines)
        interrupted(pod, lines)

        def fail(step: int) -> None:
            if step == 2:
                running.close()
            if step == 3:
                wait_until(lambda: "the checkpoint of step 2 is not stored" in caplog.text)
                running.enter_context(fixture.s3_server(folder, port))

        with at_each_step(fail):
            told = pod.attempt(checkpoint=EVERY_TWO)
    assert told.version == whole.version
    assert told.checkpoint == CheckpointProgress(saved_step=4)


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(pod: Pod, lines: str) -> None:
    interrupted(pod, lines)
    with loss_is_nan_at(4):
        told = pod.attempt(checkpoint=EVERY_TWO)
    assert told.exit_code == ExitCode.LOSS_NOT_FINITE
    (folder,) = checkpoints(pod)
    where = folder.relative_to(pod.s3.data)
    assert told.message.endswith(f"; the last good checkpoint is step 2 at s3://{where}")


def test_a_damaged_checkpoint_is_told_and_costs_nothing_but_time(pod: Pod, lines: str) -> None:
    whole = uninterrupted(pod, lines)
    interrupted(pod, lines)
    with sigterm_after(3):
        pod.attempt(checkpoint=EVERY_TWO)
    assert steps(pod) == [2, 3]
    (checkpoints(pod)[-1] / "optimizer.pt").write_bytes(b"")
    told = pod.attempt(attempt=2, checkpoint=EVERY_TWO)
    assert told.version == whole.version
    assert told.checkpoint is not None
    assert told.checkpoint.resumed == "resumed from step 2 of attempt 1"
    assert told.checkpoint.damaged == ["step 3: optimizer.pt has other bytes than the storage was given"]


def test_a_dataset_that_changed_between_two_attempts_is_trained_from_the_beginning(pod: Pod, lines: str) -> None:
    a_pod = interrupted(pod, lines)
    with sigterm_after(3):
        pod.attempt()
    a_pod.at(pods.RUN_DIR / run.DATA_KEYS["train"]).write_text(lines + '{"prompt": "1+1", "completion": "2"}\n')
    told = pod.attempt(attempt=2)
    assert told.exit_code == ExitCode.SUCCEEDED
    assert told.checkpoint is not None
    assert (told.checkpoint.resumed_step, told.checkpoint.saved_step) == (None, 4)


def test_progress_goes_on_where_the_checkpoint_stands(pod: Pod, lines: str) -> None:
    """Percent, tokens and time left: none begins at zero again."""
    interrupted(pod, lines)
    seen: list[Progress] = []
    with sigterm_after(3):
        pod.attempt()
    with pytest.MonkeyPatch.context() as patch:
        begin = Tracker.begin_training

        def watching(self: Tracker, total_steps: int, **done: Any) -> None:
            begin(self, total_steps, **done)
            seen.append(self.now)

        patch.setattr(Tracker, "begin_training", watching)
        told = pod.attempt()
    (first,) = seen
    assert (first.step, first.total_steps, first.percent, first.loss is not None) == (3, 4, 75, True)
    assert told.tokens_per_second is not None
    assert told.steps == 4


def wait_until(happened: Callable[[], bool]) -> None:
    """Waits for something that takes milliseconds; at most half a minute, on a busy machine."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)
