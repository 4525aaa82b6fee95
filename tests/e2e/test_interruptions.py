"""Things that are deleted or edited in the middle: the same end as without."""

from __future__ import annotations

from demo import asking, example, story
from demo.kubectl import Object, condition, is_true, wait_for
from e2e import stage as builders
from e2e.stage import Stage

LONG_STEPS = 400
"""Steps of the tiny model that take long enough to be interrupted."""


def start(stage: Stage, name: str, *, max_steps: int = LONG_STEPS) -> Object:
    """A fine-tune of the tiny model whose pod trains."""
    stage.kubectl.apply(builders.data(name, builders.GOOD_DATA), builders.finetune(name, max_steps=max_steps))

    def look() -> Object | None:
        found = stage.finetune(name)
        return found if found.get("status", {}).get("progress", {}).get("stage") == "Training" else None

    return wait_for(f"training of {name}", look, timeout_s=300, every_s=0.5)


def assert_completes(stage: Stage, name: str) -> Object:
    """The run ends well."""
    found = stage.ended(name)
    complete = condition(found, "Complete") or {}
    assert complete["status"] == "True", complete["message"]
    return found


def test_a_run_whose_job_is_deleted_goes_on_under_the_same_name(stage: Stage) -> None:
    start(stage, "job-deleted")
    ((name, uid),) = stage.jobs("job-deleted").items()
    stage.kubectl.run("delete", "job", name)
    found = assert_completes(stage, "job-deleted")
    assert found["status"]["run"]["jobName"] == name
    assert stage.jobs("job-deleted")[name] != uid


def test_a_run_whose_pod_is_deleted_completes_though_it_has_no_retries(stage: Stage) -> None:
    start(stage, "pod-deleted")
    stage.kubectl.run("delete", "pod", "--selector", "loraline.dev/finetune=pod-deleted")
    assert_completes(stage, "pod-deleted")


def test_a_run_goes_on_while_the_operator_is_deleted(stage: Stage) -> None:
    start(stage, "operator-deleted")
    jobs = stage.jobs("operator-deleted")
    selector = "app.kubernetes.io/component=operator"
    stage.in_system("delete", "pod", "--selector", selector)
    assert_completes(stage, "operator-deleted")
    assert stage.jobs("operator-deleted") == jobs


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
