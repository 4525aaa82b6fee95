"""Things that are deleted, killed or edited in the middle: the same end as without, to the last byte of the adapter."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from demo import asking, example, story
from demo.kubectl import Object, condition, is_true, wait_for
from e2e import stage as builders
from e2e.stage import Stage

LONG_STEPS = 400
"""Steps of the tiny model that take long enough to be interrupted."""


OPERATOR = "app.kubernetes.io/component=operator"


@pytest.fixture(scope="module")
def untouched(stage: Stage) -> str:
    """The version of the recipe's adapter when its training pod is left alone; the operator's pod is not."""
    start(stage, "operator-deleted")
    jobs = stage.jobs("operator-deleted")
    stage.in_system("delete", "pod", "--selector", OPERATOR)
    found = assert_completes(stage, "operator-deleted")
    assert stage.jobs("operator-deleted") == jobs
    return version_of(found)


def start(stage: Stage, name: str, *, saved_step: int | None = None) -> Object:
    """A fine-tune of the tiny model whose pod trains, and has saved a step when one is asked for."""
    spec = builders.finetune(name, max_steps=LONG_STEPS, checkpoint={"interval": 20})
    stage.kubectl.apply(builders.data(name, builders.GOOD_DATA), spec)

    def look() -> Object | None:
        found = stage.finetune(name)
        progress = found.get("status", {}).get("progress", {})
        if progress.get("stage") != "Training":
            return None
        return found if progress.get("checkpoint", {}).get("savedStep", 0) >= (saved_step or 0) else None

    return wait_for(f"training of {name}", look, timeout_s=300, every_s=0.5)


def assert_completes(stage: Stage, name: str) -> Object:
    """The run ends well."""
    found = stage.ended(name)
    complete = condition(found, "Complete") or {}
    assert complete["status"] == "True", complete["message"]
    return found


def version_of(found: Object) -> str:
    """The version of the adapter of a fine-tune."""
    return str(found["status"]["adapter"]["version"])


def resumed_step(found: Object) -> int:
    """The step from which the last attempt of a fine-tune went on."""
    return int(found["status"]["progress"]["checkpoint"]["resumedStep"])


def trainer_of(pod: Object) -> int:
    """The process of a pod's trainer, on this machine, which is the node."""
    uid = pod["metadata"]["uid"]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # processes come and go
            is_in_pod = uid in (folder / "cgroup").read_text().replace("_", "-")
            if is_in_pod and b"loraline_trainer" in (folder / "cmdline").read_bytes():
                return int(folder.name)
    raise AssertionError(f"no trainer runs in the pod of uid {uid}")


def test_a_run_whose_job_is_deleted_goes_on_under_the_same_name(stage: Stage, untouched: str) -> None:
    start(stage, "job-deleted")
    ((name, uid),) = stage.jobs("job-deleted").items()
    stage.kubectl.run("delete", "job", name)
    found = assert_completes(stage, "job-deleted")
    assert found["status"]["run"]["jobName"] == name
    assert stage.jobs("job-deleted")[name] != uid
    assert version_of(found) == untouched


def test_a_run_whose_pod_is_deleted_goes_on_from_its_last_step_to_the_same_adapter(
    stage: Stage, untouched: str
) -> None:
    """SIGTERM: the pod saves where it stands, and has no retries to lose."""
    start(stage, "pod-deleted")
    stage.kubectl.run("delete", "pod", "--selector", "loraline.dev/finetune=pod-deleted")
    found = assert_completes(stage, "pod-deleted")
    assert resumed_step(found) > 0
    assert version_of(found) == untouched


def test_a_run_whose_trainer_is_killed_goes_on_from_its_last_checkpoint_to_the_same_adapter(
    stage: Stage, untouched: str
) -> None:
    """SIGKILL: what was done since the last checkpoint is done again, in another attempt."""
    start(stage, "killed", saved_step=20)
    (pod,) = stage.kubectl.items("pods", "loraline.dev/finetune=killed")
    os.kill(trainer_of(pod), signal.SIGKILL)
    found = assert_completes(stage, "killed")
    assert found["status"]["run"]["attempt"] == 2
    assert resumed_step(found) >= 20
    assert resumed_step(found) % 20 == 0
    assert version_of(found) == untouched


def test_a_run_goes_on_while_the_operator_is_deleted(stage: Stage, untouched: str) -> None:
    assert version_of(stage.finetune("operator-deleted")) == untouched


def test_an_edit_in_the_middle_is_a_new_run_and_the_old_one_ends(stage: Stage) -> None:
    old = start(stage, "edited")["status"]["run"]["id"]
    stage.kubectl.apply(builders.finetune("edited", max_steps=2))
    found = assert_completes(stage, "edited")
    assert found["status"]["run"]["id"] != old


def test_a_serving_pod_that_is_deleted_loses_no_request(stage: Stage) -> None:
    stage.kubectl.run("scale", "adapterdeployment", example.DEPLOYMENT, "--replicas=2")
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
