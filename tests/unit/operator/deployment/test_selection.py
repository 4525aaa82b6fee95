"""What spec.adapterSelector makes of the fine-tunes of its namespace."""

from __future__ import annotations

from typing import Any

import pytest

from loraline_api.selector import LabelSelector
from loraline_operator import observed
from loraline_operator.actions import Kind
from unit.operator.deployment.serving_world import FALSE, FIRST, SECOND, TRUE, World, uri

TEAM = {"team": "support"}
SELECTOR = {"matchLabels": TEAM}


def selecting(*, pods: int = 1, **spec: Any) -> World:
    """A deployment without routes of its own that takes what support labels."""
    return World(pods=pods, **{"adapters": [], "adapterSelector": SELECTOR, "storage": {}, **spec})


def routes(world: World) -> dict[str, str | None]:
    return {route.name: route.version for route in world.status.routes}


def test_a_fine_tune_becomes_a_route_with_its_first_adapter() -> None:
    world = selecting()
    world.tune(None, name="tone", labels=TEAM)
    world.settle()
    assert routes(world) == {}
    assert world.condition("Selected") == (
        TRUE,
        "Serving",
        "spec.adapterSelector matches 1 LoraFineTunes, 0 of them are routes, 1 have no adapter yet",
    )
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    assert routes(world) == {"tone": FIRST}
    assert world.status.routes[0].selected


def test_its_route_follows_the_newest_version() -> None:
    world = selecting()
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    world.tune(SECOND, name="tone", labels=TEAM)
    world.settle()
    assert routes(world) == {"tone": SECOND}
    assert [item.version for item in world.table.routes[0].versions] == [SECOND]


def test_its_route_serves_on_while_it_trains_anew() -> None:
    world = selecting()
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    world.tune(None, name="tone", labels=TEAM)
    world.settle()
    assert routes(world) == {"tone": FIRST}


def test_its_route_goes_with_the_label() -> None:
    world = selecting()
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    world.tune(FIRST, name="tone", labels={"team": "sales"})
    world.settle()
    assert (routes(world), world.table.routes) == ({}, [])


def test_its_route_goes_with_the_fine_tune() -> None:
    world = selecting()
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    del world.finetunes["tone"]
    world.settle()
    assert world.table.routes == []


def test_the_own_routes_win_over_the_selector() -> None:
    world = selecting(adapters=[{"name": "tone", "uri": uri(FIRST)}])
    world.tune(SECOND, name="tone", labels=TEAM)
    world.settle()
    assert routes(world) == {"tone": FIRST}
    assert world.condition("Selected") == (
        FALSE,
        "NameConflict",
        f"LoraFineTune tone has the name of spec.adapters[tone], which serves {uri(FIRST)}; rename that entry; "
        "spec.adapterSelector matches 1 LoraFineTunes, 0 of them are routes",
    )
    ready = world.condition("Ready")
    assert ready is not None
    assert ready[0] == TRUE


def test_naming_a_selected_fine_tune_under_its_own_name_is_no_clash() -> None:
    world = selecting(adapters=[{"name": "tone", "finetuneRef": {"name": "tone"}}])
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    assert routes(world) == {"tone": FIRST}
    selected = world.condition("Selected")
    assert selected is not None
    assert selected[0] == TRUE


def test_a_fine_tune_named_like_the_base_model_is_left_out() -> None:
    world = selecting(baseModel={"uri": "s3://models/tone"})
    world.tune(FIRST, name="tone", labels=TEAM)
    world.settle()
    selected = world.condition("Selected")
    assert selected is not None
    assert selected[2].startswith(
        "LoraFineTune tone has the name of the base model, s3://models/tone; name it in spec.adapters under another "
        "name; "
    )


def test_a_bad_adapter_of_a_selected_fine_tune_is_told_and_leaves_the_deployment_healthy() -> None:
    world = selecting()
    world.tune(FIRST, name="good", labels=TEAM)
    world.tune(SECOND, name="large", labels=TEAM, rank=128)
    world.settle()
    assert routes(world) == {"good": FIRST, "large": None}
    selected = world.condition("Selected")
    assert selected is not None
    assert selected[:2] == (FALSE, "RankExceedsServer")
    assert world.events.count(selected[2]) == 1
    assert world.condition("Ready") == (TRUE, "Serving", "the base model and 1 route answer from 1 ready pods")
    assert world.condition("Stalled") is None
    assert world.status.phase == "Ready"


def test_more_fine_tunes_than_routes_keep_those_that_are_served() -> None:
    world = selecting(server={"maxCpuLoras": 1024})
    for number in range(256):
        world.tune(FIRST, name=f"tune-{number:03}", labels=TEAM)
    world.settle()
    world.tune(FIRST, name="another", labels=TEAM)
    world.settle()
    assert len(world.status.routes) == 256
    assert "another" not in routes(world)
    selected = world.condition("Selected")
    assert selected is not None
    assert selected[1] == "TooManyRoutes"
    assert selected[2].startswith(
        "LoraFineTune another is one too many: a deployment has at most 256 routes; narrow spec.adapterSelector, or "
        "serve it in another AdapterDeployment"
    )


def test_an_adapter_selector_without_storage_is_refused() -> None:
    world = World(adapters=[], adapterSelector=SELECTOR)
    world.reconcile()
    stalled = world.condition("Stalled")
    assert stalled is not None
    assert stalled[2].startswith("spec.adapterSelector needs spec.storage")


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        pytest.param({}, {}, True, id="an empty selector matches everything"),
        pytest.param({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True, id="a label that is there"),
        pytest.param({"matchLabels": {"a": "1"}}, {"a": "2"}, False, id="a label of another value"),
        pytest.param(_in := [{"key": "a", "operator": "In", "values": ["1", "2"]}], {"a": "2"}, True, id="In"),
        pytest.param(_in, {}, False, id="In without the label"),
        pytest.param(
            _not := [{"key": "a", "operator": "NotIn", "values": ["1"]}], {"a": "1"}, False, id="NotIn with the value"
        ),
        pytest.param(_not, {}, True, id="NotIn without the label"),
        pytest.param([{"key": "a", "operator": "Exists"}], {"a": ""}, True, id="Exists"),
        pytest.param([{"key": "a", "operator": "DoesNotExist"}], {"a": ""}, False, id="DoesNotExist with the label"),
    ],
)
def test_a_selector_matches_as_kubernetes_says(selector: Any, labels: dict[str, str], matches: bool) -> None:
    spec = selector if isinstance(selector, dict) else {"matchExpressions": selector}
    assert LabelSelector.model_validate(spec).matches(labels) is matches


def test_a_selector_becomes_the_text_of_list_requests() -> None:
    spec = {
        "matchLabels": {"b": "2", "a": "1"},
        "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["3", "4"]},
            {"key": "d", "operator": "NotIn", "values": ["5"]},
            {"key": "e", "operator": "Exists"},
            {"key": "f", "operator": "DoesNotExist"},
        ],
    }
    assert LabelSelector.model_validate(spec).text() == "a=1,b=2,c in (3,4),d notin (5),e,!f"


def test_progress_of_a_fine_tune_is_no_news_and_a_label_is() -> None:
    world = selecting()
    world.tune(FIRST, name="tone", labels=TEAM)
    finetune = world.finetunes["tone"]

    def body(labels: dict[str, str], **status: Any) -> dict[str, Any]:
        adapter = {"version": FIRST, "uri": uri(FIRST), "rank": 16}
        return {
            "metadata": {"uid": finetune.meta.uid, "labels": labels, "generation": 1},
            "status": {"adapter": adapter, **status},
        }

    before = observed.news(Kind.FINE_TUNE, body(TEAM))
    assert observed.news(Kind.FINE_TUNE, body(TEAM, progress={"step": 7})) == before
    assert observed.news(Kind.FINE_TUNE, body({})) != before
