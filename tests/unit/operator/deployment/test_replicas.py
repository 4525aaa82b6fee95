"""Serving pods that die, that are coming, or that answer otherwise than the others."""

from __future__ import annotations

from typing import Any

import pytest

from loraline_api.probe import ProbeAnswer
from loraline_operator.actions import Kind, Ref
from unit.operator.deployment.serving_world import FALSE, FIRST, SECOND, TRUE, SimPod, World, an_answer


def serving(pods: int) -> World:
    world = World(pods=pods)
    world.tune(FIRST)
    world.settle()
    return world


def test_a_pod_whose_node_is_lost_does_not_hold_up_a_rollout() -> None:
    world = serving(2)
    world.pods[1].is_lost = True
    world.tune(SECOND)
    world.settle()
    assert world.table.routes[0].serving == SECOND
    assert world.status.routes[0].version == SECOND


def test_a_pod_that_comes_back_is_ready_only_with_what_the_routes_need_now() -> None:
    world = serving(2)
    world.pods[1] = SimPod("tickets-1")
    world.tune(SECOND)
    world.check()
    world.pods[1].adopt(world.table)
    assert not world.pods[1].is_ready
    world.settle()
    assert [pod.serving for pod in world.pods] == [{"tickets": SECOND}] * 2


def test_a_ready_pod_that_does_not_answer_the_operator_is_named() -> None:
    world = serving(2)
    world.tune(SECOND)
    world.check()
    world.let_pods_follow()
    silent = world.pods[1].observed
    world.pods[1].observed = lambda: type(silent())(  # type: ignore[method-assign]
        "tickets-1", "uid-tickets-1", ip="10.0.0.2", is_ready=True, template="template-1"
    )
    world.reconcile()
    assert world.status.routes[0].message == (
        f"version {SECOND} waits for pod tickets-1, which is ready but does not answer the operator on port 8080"
    )


def test_a_replica_that_disagrees_with_the_others_gets_no_requests_and_is_told() -> None:
    world = serving(3)
    world.pods[1].seed = 1
    world.settle()
    assert world.table.distrusted == ["tickets-1"]
    assert [pod.is_ready for pod in world.pods] == [True, False, True]
    message = (
        f"pod tickets-1 answers the probe of tickets@{FIRST} with fingerprint {an_answer(FIRST, 1).fingerprint}, pod "
        f"tickets-0 with {an_answer(FIRST, 0).fingerprint}: it gets no requests; delete it to have another one made"
    )
    assert world.condition("Degraded") == (TRUE, "ReplicasDisagree", message)
    assert world.status.pods[1].problem == message
    assert world.status.pods[1].versions[0].fingerprint == an_answer(FIRST, 1).fingerprint


def test_of_two_that_disagree_the_one_that_proved_first_is_believed() -> None:
    world = serving(2)
    world.pods[0].seed = 1
    world.settle()
    assert world.table.distrusted == ["tickets-0"]


def test_a_replica_that_agrees_again_is_trusted_again() -> None:
    world = serving(2)
    world.pods[0].seed = 1
    world.settle()
    world.pods[0].seed = 0
    world.settle()
    assert world.table.distrusted is None
    assert world.condition("Degraded") == (FALSE, "Serving", "nothing is amiss")


def test_a_replica_that_disagrees_about_a_new_version_does_not_hold_it_up() -> None:
    world = serving(3)
    world.tune(SECOND)
    world.check()
    world.pods[2].seed = 1
    world.settle()
    assert world.status.routes[0].version == SECOND
    assert world.table.distrusted == ["tickets-2"]


def test_pods_of_another_template_are_not_compared() -> None:
    world = serving(2)
    world.pods[1].seed, world.pods[1].template = 1, "template-2"
    world.settle()
    assert world.table.distrusted is None


@pytest.mark.parametrize(
    ("token_ids", "logprobs", "agrees"),
    [
        pytest.param([1, 2, 3], [-1.0, -2.0, -0.5], True, id="the same answer agrees"),
        pytest.param([1, 2, 3], [-1.02, -1.97, -0.52], True, id="rounding of a GPU agrees"),
        pytest.param([1, 5, 6], [-1.0, -2.04, -3.0], True, id="texts that part at a tie agree"),
        pytest.param([1, 5, 6], [-1.0, -0.4, -3.0], False, id="texts that part where one is sure disagree"),
        pytest.param([1, 2, 3], [-1.0, -4.0, -0.5], False, id="a token of another likelihood disagrees"),
        pytest.param([1, 2], [-1.0, -2.0], False, id="a shorter answer disagrees"),
        pytest.param([1, 2, 3], [-1.0, float("nan"), -0.5], False, id="no number disagrees"),
    ],
)
def test_answers_agree_within_what_hardware_makes_of_them(
    token_ids: list[int], logprobs: list[float], agrees: bool
) -> None:
    reference = ProbeAnswer(token_ids=[1, 2, 3], logprobs=[-1.0, -2.0, -0.5])
    answer = ProbeAnswer(token_ids=token_ids, logprobs=logprobs)
    assert answer.agrees_with(reference) is agrees
    assert reference.agrees_with(answer) is agrees


def test_a_scaled_up_deployment_changes_no_table_and_one_scaled_down_neither() -> None:
    world = serving(1)
    table = world.table
    world.edit(replicas=3)
    world.settle()
    assert (world.table, world.status.ready_replicas) == (table, 3)
    world.edit(replicas=1)
    world.settle()
    assert (world.table, world.status.ready_replicas) == (table, 1)


def changed(world: World, **spec: Any) -> dict[str, Any]:
    """The Deployment after an edit."""
    world.edit(**spec)
    world.settle()
    manifest: dict[str, Any] = world.children[Ref(Kind.DEPLOYMENT, "support", "tickets")]["spec"]
    return manifest


@pytest.mark.parametrize(
    "spec",
    [
        {"server": {"image": "vllm:2"}},
        {"server": {"extraArgs": ["--seed=1"]}},
        {"server": {"dtype": "bfloat16"}},
        {"server": {"maxLoras": 8}},
        {"compute": {"requests": {"memory": "8Gi"}}},
    ],
    ids=lambda spec: next(iter(next(iter(spec.values())))),
)
def test_a_changed_server_adds_a_pod_before_one_goes_and_keeps_the_table(spec: dict[str, Any]) -> None:
    world = serving(2)
    table = world.table
    before = world.children[Ref(Kind.DEPLOYMENT, "support", "tickets")]["spec"]["template"]
    after = changed(world, **spec)
    assert after["template"] != before
    assert after["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert world.table == table
