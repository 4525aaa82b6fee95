"""What is planned for an AdapterDeployment, case by case: routes, conditions, children."""

from __future__ import annotations

import pytest

from loraline_api.routing import VersionPhase
from loraline_operator import naming
from loraline_operator.actions import Create, Kind, Ref
from unit.operator.deployment.serving_world import FALSE, FIRST, SECOND, THIRD, TRUE, World, uri

DEPLOYMENT = Ref(Kind.DEPLOYMENT, "support", "tickets")
ROUTES = Ref(Kind.CONFIG_MAP, "support", "tickets-routes")


def serving(version: str | None = FIRST, *, pods: int = 1) -> World:
    """A world that serves this version."""
    world = World(pods=pods)
    world.tune(version)
    world.settle()
    return world


def test_a_new_deployment_makes_table_service_and_pods_in_this_order() -> None:
    world = World()
    world.tune(FIRST)
    kinds = [action.ref.kind for action in world.plan().actions if isinstance(action, Create)]
    assert kinds == [Kind.CONFIG_MAP, Kind.SERVICE, Kind.DEPLOYMENT]


def test_a_first_version_answers_once_every_pod_has_proved_it() -> None:
    world = serving(pods=2)
    assert [pod.serving for pod in world.pods] == [{"tickets": FIRST}] * 2
    assert world.condition("Ready") == (
        TRUE,
        "Serving",
        "the base model and 1 route answer from 2 ready pods",
    )
    assert world.status.display == f"tickets={FIRST}"
    assert world.status.phase == "Ready"
    assert world.condition("Reconciling") is None
    assert world.condition("Stalled") is None
    assert world.events[-1] == f"route tickets answers with version {FIRST}"


def test_a_new_version_waits_for_the_last_pod() -> None:
    world = serving(pods=2)
    world.tune(SECOND)
    world.check()
    world.pods[0].follow(world.table, frozenset())
    for _ in range(3):
        world.reconcile()
    world.pods[1].adopt(world.table)
    world.reconcile()
    assert world.table.routes[0].serving == FIRST
    world.pods[1].follow(world.table, frozenset())
    world.reconcile()
    assert world.table.routes[0].serving == SECOND
    assert [item.version for item in world.table.routes[0].versions] == [FIRST, SECOND]


def test_while_a_version_is_rolled_out_the_deployment_is_ready_and_reconciling() -> None:
    world = serving()
    world.tune(SECOND)
    world.check()
    message = f"version {SECOND} is being loaded by the pods"
    assert (world.status.routes[0].version, world.status.routes[0].target) == (FIRST, SECOND)
    assert world.condition("Ready") == (TRUE, "Serving", "the base model and 1 route answer from 1 ready pods")
    assert world.condition("Progressing") == (TRUE, "RollingOut", f"route tickets: {message}")
    assert world.condition("Reconciling") == (TRUE, "RollingOut", f"route tickets: {message}")


def test_the_table_stays_the_same_while_pods_start_and_load() -> None:
    world = World(pods=2)
    world.tune(FIRST)
    world.reconcile()
    table = world.table
    world.let_pods_follow()
    for pod in world.pods:
        pod.phases, pod.serving, pod.table = {}, {}, None
    for pod in world.pods:
        world.reconcile()
        pod.adopt(world.table)
        world.reconcile()
    assert world.table == table


def test_the_old_version_leaves_the_table_when_every_pod_has_switched() -> None:
    world = serving(pods=2)
    world.tune(SECOND)
    world.settle()
    assert [item.version for item in world.table.routes[0].versions] == [SECOND]
    assert world.status.routes[0].version == SECOND
    assert world.status.routes[0].uri == uri(SECOND)


def test_a_pod_that_refuses_a_version_takes_the_route_back() -> None:
    world = serving(pods=2)
    world.refused = frozenset({SECOND})
    world.tune(SECOND)
    world.settle()
    message = (
        f"route tickets: pod tickets-0 refused version {SECOND}: adapter holds a NaN; version {FIRST} keeps answering"
    )
    assert [item.version for item in world.table.routes[0].versions] == [FIRST]
    assert (world.status.routes[0].version, world.status.routes[0].rejected) == (FIRST, SECOND)
    assert world.condition("Ready") == (FALSE, "AdapterInvalid", message)
    assert world.condition("Degraded") == (TRUE, "AdapterInvalid", message)
    assert world.condition("Compatible") == (FALSE, "AdapterInvalid", message)
    assert world.condition("Stalled") == (TRUE, "AdapterInvalid", message)
    assert world.condition("Loaded") == (
        TRUE,
        "Serving",
        "every ready pod answers with the versions that its routes name",
    )


def test_after_a_refusal_the_next_version_is_rolled_out() -> None:
    world = serving()
    world.refused = frozenset({SECOND})
    world.tune(SECOND)
    world.settle()
    world.tune(THIRD)
    world.settle()
    assert world.status.routes[0].version == THIRD
    assert world.status.routes[0].rejected is None
    assert world.condition("Stalled") is None


def test_an_edit_of_the_spec_tries_a_refused_version_again() -> None:
    world = serving()
    world.refused = frozenset({SECOND})
    world.tune(SECOND)
    world.settle()
    world.refused = frozenset()
    world.edit(server={"maxLoraRank": 128})
    world.settle()
    assert world.status.routes[0].version == SECOND


def test_a_refusal_by_a_pod_is_remembered_before_the_table_forgets_the_version() -> None:
    world = serving()
    world.refused = frozenset({SECOND})
    world.tune(SECOND)
    while world.status.routes[0].rejected is None:
        assert world.reconcile()
        world.let_pods_follow()
        world.let_checks_run()
    assert SECOND in [item.version for item in world.table.routes[0].versions]
    world.settle()
    assert [item.version for item in world.table.routes[0].versions] == [FIRST]
    assert world.checked == [FIRST, SECOND]


def test_a_refusal_by_a_pod_of_the_servers_earlier_settings_does_not_count() -> None:
    world = serving()
    world.refused = frozenset({SECOND})
    world.tune(SECOND)
    world.edit(server={"maxLoraRank": 128})
    world.check()
    for pod in world.pods:
        pod.follow(world.table, world.refused)
    world.reconcile()
    assert world.status.routes[0].rejected is None
    assert SECOND in [item.version for item in world.table.routes[0].versions]


def test_a_route_named_like_the_base_model_is_refused() -> None:
    world = serving()
    world.edit(baseModel={"uri": "s3://models/tickets"})
    world.settle()
    assert world.condition("Ready") == (
        FALSE,
        "InvalidSpec",
        "spec.adapters[tickets].name is also the model name of spec.baseModel.uri, s3://models/tickets; give the route "
        "another name",
    )


def test_a_child_that_the_api_server_does_not_take_is_said_and_what_is_served_stays() -> None:
    world = serving()
    words = 'Deployment.apps "support" is invalid: spec.template.spec.affinity: Required value'
    world.refusal = words
    world.settle()
    assert world.condition("Ready") == (
        FALSE,
        "InvalidSpec",
        f"a child of this deployment is refused: {words}; mend the spec",
    )
    assert world.table.routes[0].serving == FIRST


def test_going_back_to_an_earlier_version_is_a_rollout_like_any_other() -> None:
    world = serving()
    world.tune(SECOND)
    world.settle()
    world.tune(FIRST)
    world.settle()
    assert world.status.routes[0].version == FIRST


def test_a_version_that_is_overtaken_in_its_rollout_is_left_out() -> None:
    world = serving()
    world.tune(SECOND)
    world.check()
    world.tune(THIRD)
    world.check()
    assert [item.version for item in world.table.routes[0].versions] == [FIRST, THIRD]


def test_nothing_moves_while_a_ready_pod_has_not_seen_the_table() -> None:
    world = serving(pods=2)
    world.tune(SECOND)
    world.check()
    world.pods[0].follow(world.table, frozenset())
    world.pods[1].phases["tickets", SECOND] = VersionPhase.PROVED  # of an older table
    world.reconcile()
    assert world.table.routes[0].serving == FIRST


def test_pods_without_the_table_are_nudged_and_nudged_again_after_five_seconds() -> None:
    world = serving()
    world.tune(SECOND)
    world.check()
    nudges = []
    for _ in range(8):
        plan = world.plan()
        nudges.append([action for action in plan.actions if action.ref.kind is Kind.POD])
        world.reconcile()
    assert [len(actions) for actions in nudges] == [1, 0, 0, 0, 0, 1, 0, 0]
    assert world.pods[0].annotation.startswith(world.table.digest)


def test_a_lost_served_adapter_does_not_keep_a_better_one_out() -> None:
    world = serving()
    world.pods[0].phases["tickets", FIRST] = VersionPhase.REJECTED
    world.pods[0].serving = {}  # started again, and its files are gone from S3
    world.refused = frozenset({FIRST})
    world.tune(SECOND)
    world.settle()
    assert world.status.routes[0].version == SECOND


def test_a_lost_table_is_made_again_from_what_is_served() -> None:
    world = serving()
    table = world.table
    del world.children[ROUTES]
    world.reconcile()
    assert world.table == table


def test_a_missing_finetune_is_named_and_no_pod_is_made_for_it() -> None:
    world = World()
    world.settle()
    message = (
        "route tickets: LoraFineTune tickets does not exist in this namespace; create it or correct "
        "spec.adapters[tickets].finetuneRef.name"
    )
    assert world.condition("Ready") == (FALSE, "FineTuneNotFound", message)
    assert DEPLOYMENT not in world.children


def test_a_finetune_that_is_deleted_leaves_its_version_answering() -> None:
    world = serving()
    world.finetunes = {}
    world.settle()
    assert world.table.routes[0].serving == FIRST
    assert world.condition("Ready") == (
        FALSE,
        "FineTuneNotFound",
        "route tickets: LoraFineTune tickets does not exist in this namespace; create it or correct "
        f"spec.adapters[tickets].finetuneRef.name; version {FIRST} keeps answering",
    )


def test_a_route_without_an_adapter_tells_callers_what_it_waits_for() -> None:
    world = serving(None)
    assert world.table.routes[0].waiting_for == "LoraFineTune tickets has no adapter yet; see its status"
    assert world.condition("Ready") == (
        FALSE,
        "WaitingForAdapter",
        "route tickets: LoraFineTune tickets has no adapter yet; see its status",
    )
    assert world.condition("Stalled") is None


def test_a_route_whose_finetune_trains_anew_stays_ready() -> None:
    world = serving()
    world.tune(None)
    world.settle()
    assert world.table.routes[0].serving == FIRST
    ready = world.condition("Ready")
    assert ready is not None
    assert ready[0] == TRUE


def test_a_rank_over_the_limit_is_told_before_it_has_trained() -> None:
    world = serving(None)
    world.tune(None, spec={"adapter.rank": 128})
    world.settle()
    message = (
        "route tickets: LoraFineTune tickets trains with adapter.rank 128, but spec.server.maxLoraRank is 64; "
        "raise it or train with a lower rank"
    )
    assert world.condition("Compatible") == (FALSE, "RankExceedsServer", message)


def test_a_rank_over_the_limit_is_told_before_anything_is_loaded() -> None:
    world = serving()
    world.tune(SECOND, rank=128)
    world.settle()
    message = (
        f"route tickets: adapter {SECOND} of LoraFineTune tickets has rank 128, but spec.server.maxLoraRank is 64; "
        f"raise it or train with a lower rank; version {FIRST} keeps answering"
    )
    assert world.condition("Compatible") == (FALSE, "RankExceedsServer", message)
    assert [item.version for item in world.table.routes[0].versions] == [FIRST]


def test_a_finetune_of_another_hub_model_is_told_before_anything_is_loaded() -> None:
    world = World()
    world.tune(FIRST, spec={"baseModel.uri": "hf://org/other"})
    world.settle()
    assert world.condition("Ready") == (
        FALSE,
        "BaseModelMismatch",
        "route tickets: LoraFineTune tickets tunes hf://org/other, but spec.baseModel.uri is hf://org/model; "
        "serve it in an AdapterDeployment of its own base model",
    )


def test_a_copy_of_the_model_elsewhere_is_left_to_the_pods_to_judge() -> None:
    world = World(baseModel={"uri": "s3://models/copy"})
    world.tune(FIRST)
    world.settle()
    assert world.status.routes[0].version == FIRST


def test_finetunes_with_different_storage_need_a_word_in_the_spec() -> None:
    world = World(
        adapters=[
            {"name": "one", "finetuneRef": {"name": "one"}},
            {"name": "two", "finetuneRef": {"name": "two"}},
        ]
    )
    world.tune(FIRST, name="one")
    world.tune(SECOND, name="two", spec={"output.endpoint": "http://s3.example:9000"})
    world.reconcile()
    assert world.condition("Stalled") == (
        TRUE,
        "InvalidSpec",
        "fine-tunes one and two publish to different S3 services (endpoint, region or Secret of spec.output): set "
        "spec.storage to one that reads both, or serve them in two AdapterDeployments",
    )
    assert world.children == {}


@pytest.mark.parametrize("given", ["s3://adapters/tickets", "s3://adapters/tickets/adapters/latest"])
def test_a_uri_that_names_no_version_is_refused(given: str) -> None:
    world = World(adapters=[{"name": "tickets", "uri": given}])
    world.settle()
    assert world.condition("Stalled") == (
        TRUE,
        "InvalidSpec",
        f"route tickets: spec.adapters[tickets].uri is {given}, which names no published adapter; give it as "
        "s3://bucket/prefix/adapters/<version>, as status.adapter.uri of a LoraFineTune has it",
    )


def test_a_route_by_uri_needs_no_finetune() -> None:
    world = World(adapters=[{"name": "tickets", "uri": uri(FIRST)}])
    world.settle()
    assert world.status.routes[0].version == FIRST


def test_a_name_that_no_service_can_have_is_refused() -> None:
    world = World()
    world.manifest["metadata"]["name"] = "my.tickets"
    world.reconcile()
    stalled = world.condition("Stalled")
    assert stalled is not None
    assert stalled[2].startswith("metadata.name is my.tickets, which cannot name a Service")


def test_no_replicas_are_ready_and_serve_nothing() -> None:
    world = serving(pods=0)
    assert world.condition("Ready") == (TRUE, "Serving", "spec.replicas is 0, so nothing answers")


def test_a_container_that_crashes_is_told_with_its_last_words() -> None:
    world = World()
    world.tune(FIRST)
    world.reconcile()
    world.let_pods_follow()
    world.pods[0].crash = "container engine exited with code 1: ValueError: max_model_len is too large"
    world.pods[0].answers = False
    world.reconcile()
    message = "pod tickets-0: container engine exited with code 1: ValueError: max_model_len is too large"
    assert world.condition("Ready") == (FALSE, "PodsNotReady", message)


def test_a_removed_route_leaves_the_table() -> None:
    world = serving()
    world.edit(adapters=[])
    world.settle()
    assert world.table.routes == []
    assert world.status.routes == []


def test_a_deleted_object_gets_no_more_writes() -> None:
    world = serving()
    world.manifest["metadata"] |= {"deletionTimestamp": "2026-11-22T12:00:00Z", "finalizers": []}
    assert world.plan().actions == ()
    assert naming.FINALIZER not in world.manifest["metadata"]["finalizers"]
