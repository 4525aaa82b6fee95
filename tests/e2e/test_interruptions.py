"""Things that are deleted or edited in the middle: the same end as without. All are interrupted in one play."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from demo import asking, example, story
from demo.kubectl import Object, condition, is_true
from e2e import stage as builders
from e2e.stage import Stage

LONG_STEPS = 400
"""Steps of the tiny model that take long enough to be interrupted."""

OPERATOR = "app.kubernetes.io/component=operator"


def delete_job(stage: Stage, name: str) -> None:
    """Deletes the Job of a fine-tune."""
    stage.kubectl.run("delete", "job", *stage.jobs(name), "--wait=false")


def delete_pod(stage: Stage, name: str) -> None:
    """Deletes the training pod of a fine-tune."""
    stage.kubectl.run("delete", "pod", "--selector", f"loraline.dev/finetune={name}", "--wait=false")


def delete_operator(stage: Stage, name: str) -> None:
    """Deletes the operator's pod."""
    stage.in_system("delete", "pod", "--selector", OPERATOR)


def edit(stage: Stage, name: str) -> None:
    """Edits the recipe of a fine-tune."""
    stage.kubectl.apply(builders.finetune(name, max_steps=2))


INTERRUPTIONS: dict[str, Callable[[Stage, str], None]] = {
    "job-deleted": delete_job,
    "pod-deleted": delete_pod,
    "operator-deleted": delete_operator,
    "edited": edit,
}


@dataclass(slots=True)
class Seen:
    """A fine-tune when it was interrupted, and at its end."""

    run_id: str
    jobs: dict[str, str]
    end: Object = field(default_factory=dict)


@pytest.fixture(scope="module")
def seen(stage: Stage) -> dict[str, Seen]:
    """All fine-tunes after their end; each was interrupted while it trained."""
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=2")  # for the last test here
    for name in INTERRUPTIONS:
        stage.kubectl.apply(builders.data(name, builders.GOOD_DATA), builders.finetune(name, max_steps=LONG_STEPS))
    found: dict[str, Seen] = {}

    def interrupt() -> bool:
        for name in INTERRUPTIONS.keys() - found.keys():
            status = stage.finetune(name).get("status", {})
            if status.get("progress", {}).get("stage") == "Training":
                found[name] = Seen(status["run"]["id"], stage.jobs(name))
                INTERRUPTIONS[name](stage, name)
        return found.keys() == INTERRUPTIONS.keys()

    stage.wait("all of them to train", interrupt, timeout_s=300, every_s=0.3)
    for name, one in found.items():
        one.end = stage.ended(name)
    return found


@pytest.mark.parametrize("name", INTERRUPTIONS)
def test_an_interrupted_run_completes_though_it_has_no_retries(seen: dict[str, Seen], name: str) -> None:
    complete = condition(seen[name].end, "Complete") or {}
    assert complete["status"] == "True", complete["message"]


def test_a_run_whose_job_is_deleted_goes_on_under_the_same_name(stage: Stage, seen: dict[str, Seen]) -> None:
    ((name, uid),) = seen["job-deleted"].jobs.items()
    assert seen["job-deleted"].end["status"]["run"]["jobName"] == name
    assert stage.jobs("job-deleted")[name] != uid


def test_a_run_goes_on_while_the_operator_is_deleted(stage: Stage, seen: dict[str, Seen]) -> None:
    assert stage.jobs("operator-deleted") == seen["operator-deleted"].jobs


def test_an_edit_in_the_middle_is_a_new_run_and_the_old_one_ends(stage: Stage, seen: dict[str, Seen]) -> None:
    end = seen["edited"].end["status"]
    assert end["run"]["id"] != seen["edited"].run_id
    running = [
        job for job in stage.kubectl.items("jobs", "loraline.dev/finetune=edited") if job["status"].get("active")
    ]
    assert running == []


def test_a_serving_pod_that_is_deleted_loses_no_request(stage: Stage, seen: dict[str, Seen]) -> None:
    stage.wait("two serving pods", lambda: ready_pods(stage) == 2, timeout_s=600)
    messages = [question.message for question in example.questions(example.SECOND)]
    selector = f"loraline.dev/deployment={example.DEPLOYMENT}"
    with asking.Asking(stage.kubectl, story.service_url(), example.ROUTE, messages) as client:
        stage.wait("answers", lambda: len(client.answers) >= 2)
        victim = stage.kubectl.items("pods", selector)[0]["metadata"]["name"]
        stage.kubectl.run("delete", "pod", victim)
        stage.wait("answers after the pod went", lambda: len(client.answers) >= 8)
    assert [answer for answer in client.answers if answer.status != 200] == []
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=1")
    stage.wait("one serving pod", lambda: is_true(stage.deployment(), "Ready") and ready_pods(stage) == 1)


def ready_pods(stage: Stage) -> int:
    """Serving pods that get requests."""
    return int(stage.deployment()["status"].get("readyReplicas", 0))
