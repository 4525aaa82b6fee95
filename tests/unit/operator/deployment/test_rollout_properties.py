"""Whatever happens in whatever order: what served goes on serving something proved, and at rest nothing moves.

Routes come by name and by selector; versions are rejected by checks and by pods; pods start, lag, die and come back;
slots are few.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loraline_api.conditions import Reason
from loraline_api.preflight import Verdict
from loraline_api.routing import RoutingTable, VersionPhase
from unit.operator.deployment.serving_world import FIRST, SECOND, THIRD, SimPod, World

VERSIONS = [FIRST, SECOND, THIRD]
FINETUNES = ["tickets", "tone", "terse"]
LABELS = {"serve": "here"}

Move = tuple[str, object, object]

MOVES: st.SearchStrategy[list[Move]] = st.lists(
    st.one_of(
        st.tuples(st.just("tune"), st.sampled_from(FINETUNES), st.sampled_from([*VERSIONS, None])),
        st.tuples(st.just("label"), st.sampled_from(FINETUNES), st.booleans()),
        st.tuples(st.just("remove"), st.sampled_from(FINETUNES[1:]), st.none()),
        st.tuples(st.just("refuse"), st.sampled_from(["pods", "checks"]), st.sampled_from([*VERSIONS, None])),
        st.tuples(st.just("slots"), st.integers(2, 5), st.none()),
        st.tuples(st.just("scale"), st.integers(1, 3), st.none()),
        st.tuples(st.just("pods"), st.sets(st.integers(0, 2)), st.none()),
        st.tuples(st.sampled_from(["adopt", "follow", "replace", "lose", "differ"]), st.integers(0, 2), st.none()),
    ),
    min_size=8,
    max_size=30,
)


def a_world() -> World:
    """A deployment with a route of its own, a selector, and two pods."""
    world = World(pods=2, adapterSelector={"matchLabels": LABELS}, storage={}, server={"maxLoras": 2, "maxCpuLoras": 3})
    world.tune(FIRST)
    world.tune(FIRST, name="tone", labels=LABELS)
    world.settle()
    return world


def move(world: World, kind: str, one: object, other: object) -> None:
    """One thing that can happen."""
    match kind:
        case "tune":
            labels = world.finetunes[str(one)].meta.labels if str(one) in world.finetunes else LABELS
            world.tune(str(other) if other else None, name=str(one), labels=labels)
        case "label" if str(one) in world.finetunes:
            adapter = world.finetunes[str(one)].status.adapter
            world.tune(adapter.version if adapter else None, name=str(one), labels=LABELS if other else {})
        case "remove":
            world.finetunes.pop(str(one), None)
        case "refuse" if one == "pods":
            world.refused = frozenset({str(other)}) if other else frozenset()
        case "refuse":
            bad = Verdict(version=str(other), reason=Reason.ADAPTER_INVALID, message="holds a NaN")
            world.verdicts = {str(other): bad} if other else {}
        case "slots":
            world.edit(server={"maxLoras": 2, "maxCpuLoras": one})
        case "scale":
            world.edit(replicas=one)
        case "pods" if isinstance(one, set):  # all see the table, these have done what it says
            for number in range(len(world.pods)):
                move_pod(world, "follow" if number in one else "adopt", number)
        case _ if isinstance(one, int) and one < len(world.pods):
            move_pod(world, kind, one)


def move_pod(world: World, kind: str, number: int) -> None:
    """One thing that can happen to a pod."""
    pod = world.pods[number]
    match kind:
        case "adopt" if not pod.is_lost:
            pod.adopt(world.table)
        case "follow" if not pod.is_lost:
            pod.follow(world.table, world.refused)
        case "replace":
            world.pods[number] = SimPod(pod.name)
        case "lose":
            pod.is_lost = True
        case "differ":
            pod.seed = 1 - pod.seed


def serving(table: RoutingTable) -> dict[str, str]:
    return {route.name: route.serving for route in table.routes if route.serving is not None}


def assert_step_is_safe(world: World, before: RoutingTable) -> None:
    """What one pass may do to the table."""
    after, was = world.table, serving(before)
    now = serving(after)
    odd = set(after.distrusted or ())
    proved = [pod.phases for pod in world.pods if pod.is_ready and pod.name not in odd]
    held = {route.name: [item.version for item in route.versions] for route in after.routes}
    for name, version in now.items():
        assert version in held[name], "a route answers with a version that pods are not asked to hold"
        if was.get(name) != version:
            assert all(phases.get((name, version)) is VersionPhase.PROVED for phases in proved)
    for name, version in was.items():
        if name in held:
            assert name in now, "a route that answered answers nothing"
            assert version in held[name] or now[name] == version
    for name in was.keys() - held.keys():
        finetune = world.finetunes.get(name)
        assert name != "tickets", "a route of the spec went"
        assert finetune is None or finetune.meta.labels != LABELS
    spec = world.object.spec
    assert spec is not None
    begun = sum(len(versions) for versions in held.values()) - sum(len(route.versions) for route in before.routes)
    assert begun <= 0 or sum(len(versions) for versions in held.values()) <= spec.server.slots


@settings(max_examples=60, deadline=None)
@given(moves=MOVES)
def test_what_served_serves_on_and_nothing_unproved_or_beyond_the_slots_is_served(moves: list[Move]) -> None:
    world = a_world()
    for kind, one, other in moves:
        move(world, kind, one, other)
        world.let_checks_run()
        for _ in range(2):
            before = world.table
            world.reconcile()
            assert_step_is_safe(world, before)


@settings(max_examples=60, deadline=None)
@given(moves=MOVES)
def test_a_plan_applied_to_its_own_result_is_empty_once_the_pods_have_followed(moves: list[Move]) -> None:
    world = a_world()
    for kind, one, other in moves:
        move(world, kind, one, other)
        world.reconcile()
    world.settle(limit=60)
    writes, status = world.writes, world.status
    world.reconcile()
    assert (world.writes, world.status) == (writes, status)


@settings(max_examples=40, deadline=None)
@given(moves=MOVES)
def test_once_all_is_well_again_every_route_serves_its_newest_version(moves: list[Move]) -> None:
    world = a_world()
    for kind, one, other in moves:
        move(world, kind, one, other)
        world.reconcile()
    world.refused, world.verdicts = frozenset(), {}
    world.pods = [SimPod(pod.name) for pod in world.pods]
    world.edit(server={"maxLoras": 2, "maxCpuLoras": 5})
    for name in list(world.finetunes):
        world.tune(THIRD, name=name, labels=world.finetunes[name].meta.labels)
    world.settle(limit=100)
    selected = {name for name, finetune in world.finetunes.items() if finetune.meta.labels == LABELS}
    assert serving(world.table) == dict.fromkeys({"tickets", *selected}, THIRD)
    assert all(pod.serving == serving(world.table) for pod in world.pods)
