"""Serving pods that are made anew or deleted under load: no request is lost."""

from __future__ import annotations

import json

from demo import asking, example, story
from demo.kubectl import Object, is_true
from e2e.stage import Stage

SELECTOR = f"loraline.dev/deployment={example.DEPLOYMENT}"
MESSAGES = [question.message for question in example.questions(example.SECOND)]


def client(stage: Stage) -> asking.Asking:
    """A client that keeps asking the demo's route."""
    return asking.Asking(stage.kubectl, story.service_url(), example.ROUTE, MESSAGES)


def lost(asked: asking.Asking) -> list[asking.Answer]:
    """Answers that are none."""
    return [answer for answer in asked.answers if answer.status != 200]


def ready_pods(stage: Stage) -> int:
    """Serving pods that get requests."""
    return int(stage.deployment()["status"].get("readyReplicas", 0))


def engine(pod: Object) -> list[str]:
    """The arguments of a serving pod's vLLM."""
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "engine"]
    return list(container["args"])


def test_a_change_of_the_servers_arguments_under_load_loses_no_request(stage: Stage) -> None:
    before = stage.deployment()["spec"]["server"].get("extraArgs", [])
    changed = "--max-num-seqs=32" if "--max-num-seqs=32" not in before else "--max-num-seqs=33"
    (route,) = [route for route in stage.deployment()["status"]["routes"] if route["name"] == example.ROUTE]

    def is_replaced() -> bool:
        pods = stage.kubectl.items("pods", SELECTOR)
        return len(pods) == 1 and changed in engine(pods[0]) and is_true(stage.deployment(), "Ready")

    with client(stage) as asked:
        stage.wait("answers", lambda: len(asked.answers) >= 2)
        patch = {"spec": {"server": {"extraArgs": [changed]}}}
        stage.kubectl.run("patch", "adapterdeployment", example.DEPLOYMENT, "--type=merge", f"-p={json.dumps(patch)}")
        stage.wait("the new pod alone", is_replaced, timeout_s=600)
        there = len(asked.answers)
        stage.wait("answers of the new pod", lambda: len(asked.answers) >= there + 3)
    assert lost(asked) == []
    assert {answer.version for answer in asked.answers} == {route["version"]}


def test_a_serving_pod_that_is_deleted_loses_no_request(stage: Stage) -> None:
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=2")
    stage.wait("two serving pods", lambda: ready_pods(stage) == 2, timeout_s=600)
    with client(stage) as asked:
        stage.wait("answers", lambda: len(asked.answers) >= 2)
        victim = stage.kubectl.items("pods", SELECTOR)[0]["metadata"]["name"]
        stage.kubectl.run("delete", "pod", victim)
        stage.wait("answers after the pod went", lambda: len(asked.answers) >= 8)
    assert lost(asked) == []
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=1")
    stage.wait("one serving pod", lambda: is_true(stage.deployment(), "Ready") and ready_pods(stage) == 1)
