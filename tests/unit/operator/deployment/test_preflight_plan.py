"""The checks of adapters off the serving pods: no version is asked of a pod before its check has passed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from loraline_api.conditions import Reason
from loraline_api.preflight import Verdict
from loraline_operator.actions import Create, Delete, Kind, Manifest, Ref
from unit.operator.deployment.serving_world import FALSE, FIRST, SECOND, THIRD, TRUE, SimPod, World, uri

NAN = Verdict(version=SECOND, reason=Reason.ADAPTER_INVALID, message=f"adapter {SECOND} has a NaN; train again")
GONE = Verdict(
    version=SECOND, reason=Reason.ADAPTER_NOT_FOUND, message=f"{uri(SECOND)} does not exist; publish it", is_final=False
)


def serving() -> World:
    world = World()
    world.tune(FIRST)
    world.settle()
    return world


def jobs(world: World) -> list[Manifest]:
    return [manifest for ref, manifest in world.children.items() if ref.kind is Kind.JOB]


def test_a_version_gets_into_the_table_only_after_its_check_has_passed() -> None:
    world = serving()
    world.checks_run = False
    world.tune(SECOND)
    world.settle()
    assert [item.version for item in world.table.routes[0].versions] == [FIRST]
    assert world.status.routes[0].message == f"version {SECOND} is being checked"
    world.checks_run = True
    world.settle()
    assert world.status.routes[0].version == SECOND


def test_a_check_is_removed_when_the_table_holds_its_version() -> None:
    world = serving()
    world.tune(SECOND)
    world.settle()
    assert (world.checked, jobs(world)) == ([FIRST, SECOND], [])


def test_a_version_that_fails_its_check_is_asked_of_no_pod() -> None:
    world = serving()
    world.verdicts = {SECOND: NAN}
    world.tune(SECOND)
    for _ in range(10):
        world.reconcile()
        world.let_pods_follow()
        assert [item.version for item in world.table.routes[0].versions] == [FIRST]
    message = f"route tickets: version {SECOND} was refused: {NAN.message}; version {FIRST} keeps answering"
    assert world.condition("Stalled") == (TRUE, "AdapterInvalid", message)
    assert world.status.routes[0].rejected == SECOND
    assert jobs(world) == []
    assert world.events[-1] == message


def test_after_a_failed_check_the_next_version_is_rolled_out() -> None:
    world = serving()
    world.verdicts = {SECOND: NAN}
    world.tune(SECOND)
    world.settle()
    world.tune(THIRD)
    world.settle()
    assert world.status.routes[0].version == THIRD


@pytest.mark.parametrize("verdict", [GONE, None], ids=["that cannot judge now", "whose pod was killed"])
def test_a_check_is_made_again_after_a_while(verdict: Verdict | None) -> None:
    world = serving()
    world.verdicts = {SECOND: verdict}
    world.tune(SECOND)
    world.check()
    (job,) = jobs(world)
    assert world.plan().actions == ()
    world.now += timedelta(seconds=40)
    (delete,) = world.plan().actions
    assert delete == Delete(Ref(Kind.JOB, "support", job["metadata"]["name"]), job["metadata"]["uid"])
    world.verdicts = {}
    world.settle()
    assert world.status.routes[0].version == SECOND


def test_a_missing_adapter_is_told_and_holds_up_no_other_route() -> None:
    world = World(adapters=[{"name": "absent", "uri": uri(SECOND)}, {"name": "there", "uri": uri(FIRST)}])
    world.verdicts = {SECOND: GONE}
    for _ in range(20):
        world.reconcile()
        world.let_pods_follow()
    absent, there = world.status.routes
    assert (there.version, absent.version, absent.reason) == (FIRST, None, "AdapterNotFound")
    assert absent.message == f"version {SECOND} is checked again: {GONE.message}"
    assert world.condition("Degraded") == (TRUE, "AdapterNotFound", f"route absent: {absent.message}")


def test_what_was_told_of_a_missing_adapter_stays_while_the_next_check_runs() -> None:
    world = World(adapters=[{"name": "absent", "uri": uri(SECOND)}])
    world.verdicts = {SECOND: GONE}
    for _ in range(10):
        world.reconcile()
        world.let_pods_follow()
    status = world.status
    for _ in range(70):
        world.reconcile()
        world.let_pods_follow()
    assert world.checked.count(SECOND) >= 2
    assert world.status == status


def test_a_version_of_two_routes_is_checked_once() -> None:
    world = World(adapters=[{"name": "one", "uri": uri(FIRST)}, {"name": "two", "uri": uri(FIRST)}])
    world.settle()
    assert world.checked == [FIRST]
    assert [route.version for route in world.status.routes] == [FIRST, FIRST]


def test_four_checks_run_at_once() -> None:
    world = World(adapters=[{"name": f"r{number}", "uri": uri(f"{number:012x}")} for number in range(7)])
    world.checks_run = False
    world.settle()
    assert len(jobs(world)) == 4


def test_a_first_check_waits_for_a_pod_that_tells_its_base_model() -> None:
    world = World()
    world.tune(FIRST)
    world.reconcile()
    world.reconcile()
    assert jobs(world) == []
    assert world.status.routes[0].message == (
        f"version {FIRST} is checked as soon as a pod tells which base model it serves"
    )
    world.pods = [SimPod("tickets-0")]
    plan = world.plan()
    assert [(action.ref.kind, action.ref.name) for action in plan.actions if isinstance(action, Create)] == [
        (Kind.CONFIG_MAP, "tickets-base")
    ]


def test_a_changed_rank_limit_is_another_check() -> None:
    world = serving()
    world.checks_run = False
    world.tune(SECOND)
    world.settle()
    (before,) = jobs(world)
    world.edit(server={"maxLoraRank": 128})
    world.settle()
    (after,) = jobs(world)
    assert before["metadata"]["name"] != after["metadata"]["name"]


def test_pods_of_a_check_are_out_of_reach_of_the_service() -> None:
    world = serving()
    world.checks_run = False
    world.tune(SECOND)
    world.settle()
    (job,) = jobs(world)
    labels = job["spec"]["template"]["metadata"]["labels"]
    service = world.children[Ref(Kind.SERVICE, "support", "tickets")]
    assert not service["spec"]["selector"].items() <= labels.items()


def test_a_check_against_pods_that_are_being_replaced_refuses_nothing_for_their_base() -> None:
    other = Verdict(version=SECOND, reason=Reason.BASE_MODEL_MISMATCH, message="was trained on another model")
    world = serving()
    world.verdicts = {SECOND: other}
    world.tune(SECOND)
    world.edit(baseModel={"uri": "hf://org/model", "revision": "next"})
    world.check()
    assert world.status.routes[0].rejected is None
    world.verdicts = {}
    world.pods = [SimPod("tickets-0", base_digest="e" * 64)]
    world.settle()
    assert world.status.routes[0].version == SECOND
    assert world.condition("Degraded") == (FALSE, "Serving", "nothing is amiss")
