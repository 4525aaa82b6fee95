"""Room for versions: maxCpuLoras limits what pods hold, maxLoras how many routes are rolled out at once."""

from __future__ import annotations

from typing import Any

from unit.operator.deployment.serving_world import FALSE, FIRST, SECOND, TRUE, World, uri


def with_routes(number: int, version: str = FIRST, **server: Any) -> World:
    """A deployment with so many routes by URI."""
    world = World(adapters=adapters(number, version), server=server)
    world.settle(limit=400)
    return world


def adapters(number: int, version: str) -> list[dict[str, str]]:
    return [{"name": f"route-{item:02}", "uri": uri(version)} for item in range(number)]


def rolled_at_once(world: World) -> int:
    """The most routes that held two versions at any moment until the world rests."""
    most = 0
    for _ in range(400):
        wrote = world.reconcile()
        most = max(most, sum(1 for route in world.table.routes if len(route.versions) > 1))
        held = sum(len(route.versions) for route in world.table.routes)
        spec = world.object.spec
        assert spec is not None
        assert held <= spec.server.slots
        world.let_pods_follow()
        if not wrote and all(route.version == SECOND for route in world.status.routes):
            return most
    raise AssertionError(world.status.display)


def test_routes_roll_one_at_a_time_when_they_fill_the_slots() -> None:
    world = with_routes(4, maxLoras=4)
    world.edit(adapters=adapters(4, SECOND))
    assert rolled_at_once(world) == 1


def test_as_many_routes_roll_at_once_as_slots_are_free() -> None:
    world = with_routes(5, maxLoras=8)
    world.edit(adapters=adapters(5, SECOND))
    assert rolled_at_once(world) == 3


def test_a_route_that_waits_for_its_turn_says_so() -> None:
    world = with_routes(3, maxLoras=2)
    world.edit(adapters=adapters(3, SECOND))
    world.check()
    assert world.status.routes[1].message == (
        f"version {SECOND} waits for its turn: 3 routes share the 2 slots of spec.server.maxLoras, so that one route "
        "is rolled out at a time"
    )
    assert world.condition("Stalled") is None


def test_a_route_that_does_not_fit_waits_with_limit_and_remedy_while_the_others_serve() -> None:
    world = with_routes(4, maxLoras=2, maxCpuLoras=4)
    message = (
        f"route route-03: version {FIRST} waits for a slot: spec.server.maxCpuLoras is 4, of which one is kept free "
        "for rollouts, and the pods hold 3 versions; raise it, or remove a route"
    )
    assert [route.version for route in world.status.routes] == [FIRST, FIRST, FIRST, None]
    assert world.condition("Ready") == (FALSE, "NoFreeSlot", message)
    assert world.condition("Stalled") == (TRUE, "NoFreeSlot", message)
    assert [route.serving for route in world.table.routes] == [FIRST, FIRST, FIRST, None]


def test_a_route_that_waits_for_a_slot_gets_it_when_another_goes() -> None:
    world = with_routes(4, maxLoras=2, maxCpuLoras=4)
    world.edit(adapters=adapters(4, FIRST)[1:])
    world.settle()
    assert [route.version for route in world.status.routes] == [FIRST] * 3


def test_a_lowered_limit_takes_no_route_away_and_holds_up_rollouts() -> None:
    world = with_routes(3, maxLoras=2, maxCpuLoras=4)
    world.edit(server={"maxLoras": 2, "maxCpuLoras": 3}, adapters=adapters(3, SECOND))
    world.settle()
    assert [route.version for route in world.status.routes] == [FIRST] * 3
    assert world.condition("Degraded") == (
        TRUE,
        "NoFreeSlot",
        f"route route-00: version {SECOND} waits for a slot: spec.server.maxCpuLoras is 3, and the pods hold 3 "
        f"versions; raise it, or remove a route; version {FIRST} keeps answering",
    )


def test_fifty_routes_over_two_versions_converge_and_stay_small() -> None:
    world = with_routes(50, maxLoras=4, maxCpuLoras=64)
    assert [route.serving for route in world.table.routes] == [FIRST] * 50
    assert len(world.table.encode()) < 10_000
    assert world.status.display == "50 of 50 serve"
    loaded = world.condition("Loaded")
    assert loaded is not None
    assert loaded[2].endswith("50 routes share the 4 slots of spec.server.maxLoras, so requests may wait for one")
    assert len(world.manifest["status"]["pods"][0]["versions"]) == 50
    world.edit(adapters=adapters(50, SECOND))
    assert rolled_at_once(world) == 1
    assert world.checked == [FIRST, SECOND]


def test_the_status_of_many_pods_and_routes_is_bounded() -> None:
    world = World(pods=40, adapters=adapters(60, FIRST), server={"maxCpuLoras": 128})
    world.settle()
    pods = world.manifest["status"]["pods"]
    assert len(pods) == 32
    assert {(pod["held"], pod["proved"], len(pod["versions"])) for pod in pods} == {(60, 60, 16)}
