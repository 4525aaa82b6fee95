"""The pure parts of the demo: what it promises, how it tells versions apart, and how it shows a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from demo import example, story, view
from demo.asking import Answer
from demo.result import Result

GOOD = Result(
    exact_match_before=0.0,
    exact_match_after=1.0,
    first_version="aaaaaaaaaaaa",
    second_version="bbbbbbbbbbbb",
    requests=40,
    failed_requests=0,
    mixed_answers=0,
    seconds=400.0,
)
FIRST = '{"customer": "Ada", "order": "B1", "product": "lamp", "problem": "late", "wants": "refund"}'
SECOND = FIRST.replace("}", ', "status": "new"}')

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "the base model knew it before": ({"exact_match_before": 0.3}, "exact match before"),
    "the adapter did not learn it": ({"exact_match_after": 0.8}, "exact match after"),
    "the second run gave the first adapter": ({"second_version": "aaaaaaaaaaaa"}, "both versions"),
    "the client asked nothing": ({"requests": 0}, "no request"),
    "a request was lost": ({"failed_requests": 1}, "1 of 40 requests"),
    "an answer was of another version": ({"mixed_answers": 1}, "1 answers"),
}


def test_a_good_demo_breaks_no_promise() -> None:
    assert GOOD.broken_promises() == []


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_promise_is_named(change: dict[str, Any], said: str) -> None:
    (sentence,) = dataclasses.replace(GOOD, **change).broken_promises()
    assert said in sentence


def test_the_numbers_are_written_in_camel_case(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "build" / "demo.json")
    numbers = json.loads((tmp_path / "build" / "demo.json").read_text(encoding="utf-8"))
    assert set(numbers) >= {"exactMatchBefore", "exactMatchAfter", "firstVersion", "secondVersion", "failedRequests"}


TICKETS = {
    "a ticket of the first data": (FIRST, False),
    "a ticket of the second data": (SECOND, True),
    "a ticket that breaks off": (FIRST[:-5], None),
    "a ticket with a field of neither": (FIRST.replace("}", ', "mood": "bad"}'), None),
    "a list": ("[1]", None),
    "prose": ("I am sorry to hear that.", None),
}


@pytest.mark.parametrize(("answer", "has_status"), TICKETS.values(), ids=TICKETS)
def test_a_ticket_shows_which_data_taught_it(answer: str, has_status: bool | None) -> None:
    assert example.has_status(answer) is has_status


def an_answer(version: str, text: str, status: int = 200) -> Answer:
    """An answer to any question."""
    return Answer(question="?", status=status, version=version, text=text, error="", seconds=1.0)


def test_answers_that_have_the_form_of_another_version_are_counted() -> None:
    answers = [
        an_answer("aaaaaaaaaaaa", FIRST),
        an_answer("bbbbbbbbbbbb", SECOND),
        an_answer("bbbbbbbbbbbb", FIRST),
        an_answer("cccccccccccc", FIRST),
        an_answer("aaaaaaaaaaaa", "prose"),
        an_answer("aaaaaaaaaaaa", "", status=503),
    ]
    assert story.mixed(answers, "aaaaaaaaaaaa", "bbbbbbbbbbbb") == 3


RUNS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing observed": ({}, "Pending: not seen yet"),
    "a pod starts": (
        {"phase": "Running", "conditions": [{"type": "Ready", "message": "the pod starts"}]},
        "Running: the pod starts",
    ),
    "scoring": ({"phase": "Running", "progress": {"stage": "ScoringBase"}}, "ScoringBase"),
    "training": (
        {
            "phase": "Running",
            "progress": {
                "stage": "Training",
                "percent": 50,
                "step": 12,
                "totalSteps": 24,
                "loss": "0.1",
                "etaSeconds": 9,
            },
        },
        "Training 50%, step 12/24, loss 0.1, 9 s left",
    ),
    "done": ({"phase": "Succeeded", "adapter": {"version": "aaaaaaaaaaaa"}}, "Succeeded: version aaaaaaaaaaaa"),
}


@pytest.mark.parametrize(("status", "line"), RUNS.values(), ids=RUNS)
def test_a_run_is_told_in_one_line(status: dict[str, Any], line: str) -> None:
    assert view.run_line({"status": status}) == line
