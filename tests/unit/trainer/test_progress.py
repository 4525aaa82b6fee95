"""What the tracker measures, and what its server answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from loraline_api.progress import Progress, Stage
from loraline_trainer import server
from loraline_trainer.progress import Tracker


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0


def tracker_after(steps: int, *, seconds_each: float, tokens_each: int, total: int) -> Tracker:
    """A tracker that saw steps of equal pace."""
    clock = Clock()
    tracker = Tracker(clock=lambda: clock.now)
    tracker.enter(Stage.TRAINING)
    tracker.begin_training(total)
    for step in range(1, steps + 1):
        clock.now += seconds_each
        tracker.step(
            step=step, total_steps=total, epoch=step / 10, loss=1 / step, learning_rate=1e-4, tokens=step * tokens_each
        )
    return tracker


def test_pace_and_time_left_follow_from_the_last_steps() -> None:
    progress = tracker_after(15, seconds_each=2.0, tokens_each=800, total=60).now
    assert progress.percent == 25
    assert progress.tokens_per_second == 400
    assert progress.eta_seconds == 90
    assert progress.epoch == "1.50"
    assert progress.loss == "0.06667"


def test_an_early_end_is_a_hundred_percent() -> None:
    tracker = tracker_after(15, seconds_each=1.0, tokens_each=1, total=60)
    tracker.end_training()
    assert (tracker.now.percent, tracker.now.step, tracker.now.eta_seconds) == (100, 15, 0)


def test_stage_times_are_kept_in_order() -> None:
    clock = Clock()
    tracker = Tracker(clock=lambda: clock.now)
    for stage, seconds in ((Stage.FETCHING, 2.0), (Stage.TRAINING, 3.0), (Stage.FINISHED, 5.0)):
        clock.now += seconds
        tracker.enter(stage)
    assert tracker.stage_seconds == {Stage.STARTING: 2.0, Stage.FETCHING: 3.0, Stage.TRAINING: 5.0}


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return str(answer.read().decode())


def test_the_server_answers_with_progress_metrics_and_health() -> None:
    tracker = tracker_after(15, seconds_each=2.0, tokens_each=800, total=60)
    with server.serving(tracker, 0, "127.0.0.1") as port:
        assert Progress.model_validate(json.loads(get(port, "/progress"))) == tracker.now
        assert get(port, "/healthz") == "ok\n"
        metrics = get(port, "/metrics").splitlines()
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(port, "/shutdown")
        caught.value.close()
    assert caught.value.code == 404
    assert "loraline_train_tokens_per_second 400.0" in metrics
    assert 'loraline_train_stage{stage="Training"} 1.0' in metrics
    assert 'loraline_train_stage{stage="Fetching"} 0.0' in metrics
