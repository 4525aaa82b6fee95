"""Two things at once: from every state of a run, every pair of interventions, the second on the heels of the first.

Whatever the order, and whether or not the operator looked in between, the fine-tune ends as its spec says. What holds
at every step is in `World.check`; the telling pairs are played on a real API server in tests/operator.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from loraline_operator import naming
from unit.operator.world import World

SEED = "training.seed"
ENDS = ("Succeeded", "Failed")
Step = Callable[[World], object]


def change(path: str, value: object) -> Step:
    """An edit of one field."""

    def step(world: World) -> None:
        world.finetune = world.finetune.with_spec(path, value)

    return step


def restart(world: World) -> None:
    """The annotation gets a new value."""
    annotations = {naming.RESTART_ANNOTATION: str(world.made)}
    world.finetune = world.finetune.with_metadata(annotations=annotations)


def fail_for_good(world: World) -> None:
    """The pod ends in a way that no retry mends; in a world without a pod nothing happens."""
    before = {name for name, job in world.jobs.items() if job.has_failed}
    world.end_pod(12)
    world.may_fail |= before != {name for name, job in world.jobs.items() if job.has_failed}


def exceed_deadline(world: World) -> None:
    """A live Job runs over its activeDeadlineSeconds."""
    world.may_fail |= world.exceed_deadline()


def new(_: World) -> None:
    """Nothing has been seen yet."""


def pending(world: World) -> None:
    world.settle()


def running(world: World) -> None:
    pending(world)
    world.start_pods()
    world.reconcile()


def retrying(world: World) -> None:
    running(world)
    world.end_pod(40)
    world.reconcile()


def second_attempt(world: World) -> None:
    retrying(world)
    world.wait(60)
    running(world)


def suspended(world: World) -> None:
    running(world)
    change("suspend", True)(world)
    world.settle()


def on_two_nodes(world: World) -> None:
    change("compute.nodes", 2)(world)
    running(world)


def half_placed(world: World) -> None:
    """One of two pods has a node, and there is no other."""
    world.room = 1
    on_two_nodes(world)


def queued(world: World) -> None:
    world.finetune = world.finetune.with_metadata(labels={naming.KUEUE_QUEUE_LABEL: "gpus"})
    pending(world)


def preempted(world: World) -> None:
    queued(world)
    world.admit()
    running(world)
    world.preempt()
    world.reconcile()


def deleting_its_output(world: World) -> None:
    ended(0)(world)
    change("output.deletionPolicy", "Delete")(world)
    world.settle()
    world.delete()
    world.settle()


def join_a_queue(world: World) -> None:
    world.finetune = world.finetune.with_metadata(labels={naming.KUEUE_QUEUE_LABEL: "others"})


def delete_with_output(world: World) -> None:
    change("output.deletionPolicy", "Delete")(world)
    world.reconcile()
    world.delete()


def ended(code: int) -> Step:
    def step(world: World) -> None:
        running(world)
        fail_for_good(world) if code else world.end_pod(0)
        world.settle()

    return step


def edited_after_success(world: World) -> None:
    ended(0)(world)
    change(SEED, 7)(world)
    running(world)


def stopping_for_an_edit(world: World) -> None:
    running(world)
    change(SEED, 7)(world)
    world.reconcile()


STATES: dict[str, Step] = {
    "new": new,
    "pending": pending,
    "running": running,
    "retrying": retrying,
    "in its second attempt": second_attempt,
    "suspended": suspended,
    "succeeded": ended(0),
    "failed": ended(12),
    "running again after a success": edited_after_success,
    "stopping for an edit": stopping_for_an_edit,
    "running on two nodes": on_two_nodes,
    "half placed": half_placed,
    "queued": queued,
    "preempted": preempted,
    "deleting its output": deleting_its_output,
}

INTERVENTIONS: dict[str, Step] = {
    "suspend": change("suspend", True),
    "resume": change("suspend", False),
    "edit": change(SEED, 7),
    "edit again": change(SEED, 8),
    "revert": change(SEED, 42),
    "restart": restart,
    "change compute": change("compute.requests", {"cpu": "2"}),
    "ask for two nodes": change("compute.nodes", 2),
    "join a queue": join_a_queue,
    "delete with its output": delete_with_output,
    "retry never": change("retries", 0),
    "shorten the TTL": change("ttlSecondsAfterFinished", 0),
    "change the deadline": change("activeDeadlineSeconds", 60),
    "break the spec": change("training.epochs", "many"),
    "mend the spec": change("training.epochs", 1),
    "delete": World.delete,
    "lose the Job": World.lose_jobs,
    "lose the pod": World.lose_pods,
    "start": World.start_pods,
    "let in": World.admit,
    "preempt": World.preempt,
    "fail to delete the output": lambda world: world.end_cleanup(15),
    "fail": lambda world: world.end_pod(40),
    "fail for good": fail_for_good,
    "exceed the deadline": exceed_deadline,
    "succeed": lambda world: world.end_pod(0),
    "wait": lambda world: world.wait(700),
}
"""What a user, a kubelet or fate may do; those that find nothing to do do nothing."""


def ends_as_its_spec_says(world: World) -> None:
    """Lets everything come to rest, and training come to its end where nothing holds it back."""
    world.settle()
    if "deletionTimestamp" in world.finetune.manifest["metadata"]:
        world.end_cleanup(0)
        world.settle()
        assert world.is_gone
        assert not [job for job in world.attempts if job.is_live]
        return
    if world.finetune.manifest["spec"]["training"].get("epochs") == "many":
        assert world.reconcile()
        INTERVENTIONS["mend the spec"](world)
        world.settle()
    if world.finetune.manifest["spec"].get("suspend"):
        assert world.phase in ("Suspended", *ENDS)
        assert not [pod for pod in world.pods.values() if pod.is_live]
        INTERVENTIONS["resume"](world)
    world.play()
    assert world.phase == "Succeeded" or (world.phase == "Failed" and world.may_fail)
    assert world.reconcile(), "at rest nothing is written"


@pytest.mark.parametrize("state", STATES)
def test_every_pair_of_interventions_ends_as_the_spec_says(state: str) -> None:
    before = World()
    before.finetune = before.finetune.with_spec(SEED, 42).with_spec("retries", 2)
    STATES[state](before)
    played: set[str] = set()
    for number, (first, second) in enumerate(itertools.product(INTERVENTIONS, repeat=2)):
        looks = number % 2  # after every other first one the operator comes by
        world = before.copy()
        world.story = (state, first, "a look" * looks, second)
        INTERVENTIONS[first](world)
        for _ in range(looks):
            world.reconcile()
        INTERVENTIONS[second](world)
        if world.key() not in played:  # many interventions find nothing to do
            played.add(world.key())
            ends_as_its_spec_says(world)
    assert len(played) > 100
