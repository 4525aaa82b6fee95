"""How a pod routes: what a request gets while versions wait, answer, drain and go."""

from __future__ import annotations

import pytest

from loraline_api.probe import ProbeAnswer
from loraline_api.routing import Route, RouteVersion, RoutingTable, VersionPhase
from loraline_switchboard.registry import Refusal, Registry, Target
from loraline_switchboard.table import ReadTable

OLD, NEW = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


def a_table(serving: str | None, *versions: str) -> ReadTable:
    items = [RouteVersion(version=version, uri=f"s3://b/adapters/{version}") for version in versions]
    table = RoutingTable(max_lora_rank=16, routes=[Route(name="tickets", serving=serving, versions=items)])
    return ReadTable(table, table.digest)


def a_registry(serving: str | None, *versions: str) -> Registry:
    """A pod that has adopted the table and whose vLLM is up."""
    registry = Registry(base_name="base", engine_healthy=True, base_answer=ProbeAnswer(token_ids=[1], logprobs=[0.0]))
    registry.adopt(a_table(serving, *versions))
    return registry


def prove(registry: Registry, version: str) -> None:
    held = registry.held["tickets", version]
    held.phase, held.root = VersionPhase.PROVED, f"/adapters/{version}"
    registry.settle()


def model_of(registry: Registry, model: str = "tickets") -> str:
    target = registry.resolve(model)
    assert isinstance(target, Target)
    return target.model


def test_a_route_answers_nothing_before_its_version_is_proved() -> None:
    registry = a_registry(OLD, OLD)
    refusal = registry.resolve("tickets")
    assert refusal == Refusal(
        503,
        f"this pod does not serve route `tickets` yet: route tickets needs version {OLD}, which is Waiting",
    )
    assert not registry.state().ready


def test_a_proved_version_answers_for_its_route_and_makes_the_pod_ready() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    assert model_of(registry) == f"tickets@{OLD}"
    assert registry.state().ready


def test_the_old_version_answers_until_the_new_one_is_proved() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    registry.adopt(a_table(NEW, OLD, NEW))
    assert model_of(registry) == f"tickets@{OLD}"
    prove(registry, NEW)
    assert model_of(registry) == f"tickets@{NEW}"


def test_a_version_that_still_answers_is_not_let_go_though_the_table_wants_another() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    registry.adopt(a_table(NEW, NEW))
    assert registry.unwanted() == []
    prove(registry, NEW)
    assert [held.version for held in registry.unwanted()] == [OLD]


def test_a_version_with_a_request_in_flight_drains_before_it_goes() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    target = registry.resolve("tickets")
    assert isinstance(target, Target)
    with registry.counted(target):
        registry.adopt(a_table(NEW, NEW))
        prove(registry, NEW)
        assert registry.unwanted() == []
        (old, _) = registry.state().versions
        assert (old.phase, old.in_flight) == (VersionPhase.DRAINING, 1)
    assert [held.version for held in registry.unwanted()] == [OLD]


def test_a_version_that_is_wanted_again_while_it_drains_stays() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    registry.adopt(a_table(None))
    registry.adopt(a_table(OLD, OLD))
    assert registry.unwanted() == []
    assert model_of(registry) == f"tickets@{OLD}"


def test_one_version_can_be_asked_by_its_full_name_before_the_route_moves() -> None:
    registry = a_registry(OLD, OLD, NEW)
    prove(registry, OLD)
    prove(registry, NEW)
    assert model_of(registry, f"tickets@{NEW}") == f"tickets@{NEW}"
    assert model_of(registry) == f"tickets@{OLD}"


def test_when_vllm_is_lost_nothing_answers_until_it_is_proved_again() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    registry.engine_lost("vLLM is not reached")
    assert registry.resolve("base") == Refusal(503, "this pod does not serve yet: vLLM is not reached")
    registry.base_answer = ProbeAnswer(token_ids=[1], logprobs=[0.0])
    assert isinstance(registry.resolve("tickets"), Refusal)
    prove(registry, OLD)
    assert model_of(registry) == f"tickets@{OLD}"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nope", "model `nope` is not served here; it serves: `base`, `tickets`"),
        ("tickets@cccccccccccc", "route `tickets` does not hold version `cccccccccccc` here; it serves: `base`, "),
    ],
)
def test_an_unknown_name_is_told_what_is_served(model: str, message: str) -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    refusal = registry.resolve(model)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 404
    assert refusal.message.startswith(message)


def test_a_pod_that_is_stopping_is_not_ready_and_still_answers() -> None:
    registry = a_registry(OLD, OLD)
    prove(registry, OLD)
    registry.is_stopping = True
    assert registry.why_not_ready() == "the switchboard is stopping"
    assert model_of(registry) == f"tickets@{OLD}"


def test_a_pod_whose_answers_differ_from_the_others_is_not_ready() -> None:
    registry = a_registry(OLD, OLD)
    registry.pod = "pod-1"
    prove(registry, OLD)
    for distrusted, problem in (
        (["pod-2"], ""),
        (["pod-1"], "the other replicas answer the probe otherwise; delete this pod to have another one made"),
    ):
        read = a_table(OLD, OLD)
        registry.adopt(ReadTable(read.table.model_copy(update={"distrusted": distrusted}), read.digest))
        assert registry.why_not_ready() == problem
