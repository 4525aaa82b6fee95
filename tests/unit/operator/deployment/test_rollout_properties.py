"""Whatever happens in whatever order: a route names no version that pods have not proved, and at rest nothing moves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from loraline_api.routing import VersionPhase
from unit.operator.deployment.serving_world import FIRST, SECOND, THIRD, SimPod, World

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("tune"), st.sampled_from([FIRST, SECOND, THIRD, None])),
        st.tuples(st.just("adopt"), st.integers(0, 1)),
        st.tuples(st.just("follow"), st.integers(0, 1)),
        st.tuples(st.just("refuse"), st.sampled_from([FIRST, SECOND, THIRD])),
        st.tuples(st.just("replace"), st.integers(0, 1)),
        st.tuples(st.just("scale"), st.integers(1, 3)),
    ),
    min_size=6,
    max_size=25,
)


def move(world: World, kind: str, value: object) -> None:
    if kind == "tune":
        world.tune(value)  # type: ignore[arg-type]
    elif kind == "refuse":
        world.refused = frozenset({str(value)})
    elif kind == "scale":
        world.edit(replicas=value)
    elif isinstance(value, int) and value < len(world.pods):
        if kind == "replace":
            world.pods[value] = SimPod(world.pods[value].name)
        elif kind == "adopt":
            world.pods[value].adopt(world.table)
        else:
            world.pods[value].follow(world.table, world.refused)


@settings(max_examples=80, deadline=None)
@given(moves=MOVES)
def test_a_route_only_names_versions_that_every_ready_pod_has_proved(moves: list[tuple[str, object]]) -> None:
    world = World(pods=2)
    world.tune(FIRST)
    world.settle()
    for kind, value in moves:
        move(world, kind, value)
        before = world.table.routes[0].serving
        proved = [pod.phases for pod in world.pods if pod.is_ready] or [pod.phases for pod in world.pods]
        world.reconcile()
        serving = world.table.routes[0].serving
        if serving != before:
            assert serving is not None
            assert all(phases.get(("tickets", serving)) is VersionPhase.PROVED for phases in proved)


@settings(max_examples=80, deadline=None)
@given(moves=MOVES)
def test_a_plan_applied_to_its_own_result_is_empty_once_the_pods_have_followed(
    moves: list[tuple[str, object]],
) -> None:
    world = World(pods=2)
    world.tune(FIRST)
    world.reconcile()
    for kind, value in moves:
        move(world, kind, value)
        world.reconcile()
    world.settle()
    writes, status = world.writes, world.status
    world.reconcile()
    assert (world.writes, world.status) == (writes, status)
