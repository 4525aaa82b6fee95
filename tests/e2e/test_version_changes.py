"""Twenty version changes through the whole chain, by edits of a fine-tune's data, while a client keeps asking."""

from __future__ import annotations

from collections import Counter

import pytest

from demo import asking, example, story
from e2e.stage import Stage, go_to

CHANGES = 20


@pytest.fixture(scope="module")
def jobs(stage: Stage) -> dict[str, str]:
    """The fine-tune's Jobs before the changes."""
    return stage.jobs(example.FINETUNE)


@pytest.fixture(scope="module")
def answers(stage: Stage, jobs: dict[str, str]) -> list[asking.Answer]:
    """All answers that a client got meanwhile; each version gave at least one after each change to it."""
    versions = [stage.numbers["firstVersion"], stage.numbers["secondVersion"]]
    folders = [example.FIRST, example.SECOND]
    messages = [question.message for question in example.questions(example.SECOND)]
    with asking.Asking(stage.kubectl, story.service_url(), example.ROUTE, messages) as client:
        stage.wait("the first answer", lambda: bool(client.answers))
        for number in range(CHANGES):
            go_to(stage, folders[number % 2], versions[number % 2])
            await_answer(stage, client, versions[number % 2])
    return client.answers


def await_answer(stage: Stage, client: asking.Asking, version: str) -> None:
    """Waits until that version gives one more answer."""
    before = client.versions()[version]
    stage.wait(f"an answer of {version}", lambda: client.versions()[version] > before, every_s=0.2)


def test_no_request_is_lost_in_twenty_version_changes(stage: Stage, answers: list[asking.Answer]) -> None:
    assert Counter(answer.status for answer in answers) == {200: len(answers)}


def test_no_answer_is_of_another_version_than_it_names(stage: Stage, answers: list[asking.Answer]) -> None:
    assert story.mixed(answers, stage.numbers["firstVersion"], stage.numbers["secondVersion"]) == 0


def test_going_back_to_earlier_data_trains_nothing(
    stage: Stage, jobs: dict[str, str], answers: list[asking.Answer]
) -> None:
    assert stage.jobs(example.FINETUNE).items() <= jobs.items()
