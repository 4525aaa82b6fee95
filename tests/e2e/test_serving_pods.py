"""Serving pods that are made anew or deleted under load: no request is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from demo import asking, example, story
from demo.kubectl import Object, is_true
from e2e.stage import Stage

SELECTOR = f"loraline.dev/deployment={example.DEPLOYMENT}"
ARGUMENTS = ("--max-num-seqs=32", "--max-num-seqs=33")


@pytest.fixture(scope="module")
def client(stage: Stage) -> Iterator[asking.Asking]:
    """A client that keeps asking the demo's route, of one serving pod at first and at last."""
    messages = [question.message for question in example.questions(example.SECOND)]
    with asking.Asking(stage.kubectl, story.service_url(), example.ROUTE, messages) as asked:
        stage.wait("answers", lambda: len(asked.answers) >= 2)
        yield asked
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=1")
    stage.wait("one serving pod", lambda: len(ready_pods(stage)) == 1 and is_true(stage.deployment(), "Ready"))


def ready_pods(stage: Stage) -> list[Object]:
    """Serving pods that get requests; none while one is on its way out or in."""
    pods = stage.kubectl.items("pods", SELECTOR)
    are_ready = all(is_ready(pod) and "deletionTimestamp" not in pod["metadata"] for pod in pods)
    return pods if are_ready else []


def is_ready(pod: Object) -> bool:
    """Whether the kubelet says that the pod is ready."""
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def arguments(pod: Object) -> list[str]:
    """The arguments of a serving pod's vLLM."""
    (engine,) = [container for container in pod["spec"]["containers"] if container["name"] == "engine"]
    return list(engine["args"])


def lost(asked: asking.Asking) -> list[asking.Answer]:
    """Answers that are none."""
    return [answer for answer in asked.answers if answer.status != 200]


def test_pods_that_replace_one_as_the_servers_arguments_change_lose_no_request(
    stage: Stage, client: asking.Asking
) -> None:
    """Another pod is wanted as well, so that the next test has two: both start at once."""
    there = stage.deployment()["spec"]["server"].get("extraArgs", [])
    changed = next(argument for argument in ARGUMENTS if argument not in there)
    patch = json.dumps({"spec": {"server": {"extraArgs": [changed]}}})
    stage.kubectl.run("patch", "adapterdeployment", example.DEPLOYMENT, "--type=merge", f"--patch={patch}")
    stage.wait("a new pod", lambda: len(stage.kubectl.items("pods", SELECTOR)) == 2)
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=2")

    def are_replaced() -> bool:
        pods = ready_pods(stage)
        return (
            len(pods) == 2 and all(changed in arguments(pod) for pod in pods) and is_true(stage.deployment(), "Ready")
        )

    stage.wait("two new pods and no old one", are_replaced, timeout_s=600)
    answered = len(client.answers)
    stage.wait("answers of the new pods", lambda: len(client.answers) >= answered + 2)
    assert lost(client) == []
    assert set(client.versions()) == {stage.deployment()["status"]["routes"][0]["version"]}


def test_a_serving_pod_that_is_deleted_loses_no_request(stage: Stage, client: asking.Asking) -> None:
    victim = ready_pods(stage)[0]["metadata"]["name"]
    answered = len(client.answers)
    stage.kubectl.run("delete", "pod", victim)  # returns when it is gone
    stage.wait("answers after the pod went", lambda: len(client.answers) >= answered + 6)
    assert lost(client) == []
