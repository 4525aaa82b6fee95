"""How long storage is asked again; time is injected."""

from __future__ import annotations

import pytest

from loraline_trainer import errors
from loraline_trainer.storage.retries import Passing, Patience


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


def test_a_passing_failure_is_tried_again_with_growing_pauses() -> None:
    clock = Clock()
    answers = iter([Passing("down"), Passing("down"), Passing("down"), "up"])

    def operation() -> str:
        answer = next(answers)
        if isinstance(answer, Passing):
            raise answer
        return str(answer)

    assert Patience(sleep=clock.sleep, clock=lambda: clock.now).keep_trying(operation) == "up"
    assert clock.pauses == [1.0, 2.0, 4.0]


def test_after_a_minute_it_is_said_how_often_and_how_long_was_tried() -> None:
    clock = Clock()

    def operation() -> None:
        raise Passing("http://s3:9000 did not answer")

    with pytest.raises(errors.StorageUnavailable) as caught:
        Patience(sleep=clock.sleep, clock=lambda: clock.now).keep_trying(operation)
    assert clock.pauses == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert str(caught.value) == (
        "http://s3:9000 did not answer; tried 8 times in 60 s: check that it is up and in reach of this pod"
    )


def test_a_lasting_failure_is_told_at_once() -> None:
    clock = Clock()

    def operation() -> None:
        raise errors.AccessDenied("no")

    with pytest.raises(errors.AccessDenied):
        Patience(sleep=clock.sleep, clock=lambda: clock.now).keep_trying(operation)
    assert clock.pauses == []
