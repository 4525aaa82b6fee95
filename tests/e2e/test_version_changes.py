"""Version changes through the whole chain, by edits of a fine-tune's data, while a client keeps asking.

LORALINE_CHANGES says how many, an even number; `make test CHANGES=20` sets it.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from demo import asking, example, story
from e2e.stage import Stage, go_to

CHANGES = int(os.environ.get("LORALINE_CHANGES", "8"))


@pytest.fixture(scope="module")
def jobs(stage: Stage) -> dict[str, str]:
    """The fine-tune's Jobs before the changes."""
    return stage.jobs(example.FINETUNE)


@pytest.fixture(scope="module")
def answers(stage: Stage, jobs: dict[str, str]) -> list[asking.Answer]:
    """All answers that a client got meanwhile; most changes meet answers that an earlier version has begun."""
    versions = [stage.numbers["firstVersion"], stage.numbers["secondVersion"]]
    folders = [example.FIRST, example.SECOND]
    messages = [question.message for question in example.questions(example.SECOND)]
    with asking.Asking(stage.kubectl, story.service_url(), example.ROUTE, messages) as client:
        stage.wait("the first answer", lambda: bool(client.answers))
        for number in range(CHANGES):
            go_to(stage, folders[number % 2], versions[number % 2])
        before = client.versions()[versions[1]]
        stage.wait("an answer of the last version", lambda: client.versions()[versions[1]] > before, every_s=0.2)
    return client.answers


def test_no_request_is_lost_in_version_changes(stage: Stage, answers: list[asking.Answer]) -> None:
    assert Counter(answer.status for answer in answers) == {200: len(answers)}
    assert {answer.version for answer in answers} == {stage.numbers["firstVersion"], stage.numbers["secondVersion"]}


def test_no_answer_is_of_another_version_than_it_names(stage: Stage, answers: list[asking.Answer]) -> None:
    assert story.mixed(answers, stage.numbers["firstVersion"], stage.numbers["secondVersion"]) == 0


def test_going_back_to_earlier_data_trains_nothing(
    stage: Stage, jobs: dict[str, str], answers: list[asking.Answer]
) -> None:
    assert stage.jobs(example.FINETUNE).items() <= jobs.items()
