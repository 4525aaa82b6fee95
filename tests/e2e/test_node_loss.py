"""The only node loses its power, and its Node object goes: training and serving come back by themselves.

A cloud's controller deletes the Node of a machine that is gone, and Kubernetes its pods after it: those of the operator
and of the S3 server as well, whose objects are on a volume.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from demo import example, ground, store
from demo.kubectl import Object, is_true
from e2e.stage import Stage, resumed_step, version_of

NODE = "node-1"


class Loss(NamedTuple):
    """What was there before, and the fine-tune at its end."""

    pods: set[str]
    version: str
    finetune: Object


@pytest.fixture(scope="module")
def loss(stage: Stage) -> Loss:
    """A node that is lost while a fine-tune trains, and what came of that."""
    served = serving(stage)
    stage.start("node-lost", saved_step=20)
    power(stage, "off")
    try:
        uids = on_node(stage)
        stage.kubectl.run("delete", "node", NODE)
        stage.wait("its pods to be deleted", lambda: uids.isdisjoint(on_node(stage)), timeout_s=180)
    finally:
        power(stage, "on")
    stage.kubectl.apply(store.client_pod(stage.where.images.operator))  # nobody else makes a lone pod anew
    finetune = stage.completed("node-lost")
    stage.wait("the deployment to be ready", lambda: is_ready(stage, uids), timeout_s=600)
    stage.kubectl.run("wait", "--for=condition=Ready", f"pod/{store.CLIENT}", "--timeout=180s")
    return Loss(uids, served["version"], finetune)


def power(stage: Stage, how: str) -> None:
    """Cuts the node's power, or gives it back."""
    ground.script("cluster/power.sh", str(stage.where.folder), how)


def on_node(stage: Stage) -> set[str]:
    """uids of the pods that are bound to the node, in all namespaces."""
    pods = stage.kubectl.items_everywhere("pods")
    return {pod["metadata"]["uid"] for pod in pods if pod["spec"].get("nodeName") == NODE}


def serving(stage: Stage) -> Object:
    """The status of the demo's route."""
    (route,) = [route for route in stage.deployment()["status"]["routes"] if route["name"] == example.ROUTE]
    return dict(route)


def is_ready(stage: Stage, old: set[str]) -> bool:
    """Whether the deployment says that it is ready, of pods that were not there before."""
    pods = stage.kubectl.items("pods", f"loraline.dev/deployment={example.DEPLOYMENT}")
    is_new = bool(pods) and old.isdisjoint(pod["metadata"]["uid"] for pod in pods)
    return is_new and is_true(stage.deployment(), "Ready")


def test_a_run_whose_node_is_lost_goes_on_from_its_last_checkpoint_to_the_same_adapter(
    loss: Loss, untouched: str
) -> None:
    assert resumed_step(loss.finetune) >= 20
    assert version_of(loss.finetune) == untouched


def test_a_lost_node_counts_against_no_retries(loss: Loss) -> None:
    assert loss.finetune["status"]["run"].get("failures", 0) == 0


def test_serving_comes_back_with_the_version_that_was_served_proved_and_answering(stage: Stage, loss: Loss) -> None:
    assert serving(stage)["version"] == loss.version
    (pod,) = stage.deployment()["status"]["pods"]
    assert pod["ready"]
    assert {one["version"]: one["phase"] for one in pod["versions"]}[loss.version] == "Proved"
    stage.assert_still_serving()
