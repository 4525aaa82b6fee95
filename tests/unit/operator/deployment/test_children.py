"""The children of an AdapterDeployment: whose they are, and what an edit changes about them."""

from __future__ import annotations

from loraline_operator.actions import Kind, Patch, Ref
from unit.operator.deployment.serving_world import FIRST, TRUE, World
from unit.operator.deployment.test_plan_deployment import DEPLOYMENT, serving


def test_a_child_of_somebody_else_is_left_alone() -> None:
    world = World()
    world.tune(FIRST)
    world.reconcile()
    world.children[DEPLOYMENT]["metadata"]["ownerReferences"] = []
    world.writes = 0
    world.reconcile()
    assert world.writes == 0
    assert world.condition("Stalled") == (
        TRUE,
        "NameConflict",
        "Deployment tickets exists and belongs to something else; delete it or create this object under another name",
    )


def test_a_service_of_another_object_is_named_with_its_owner() -> None:
    world = serving()
    owner = {"kind": "StatefulSet", "name": "db", "uid": "another", "controller": True}
    world.children[Ref(Kind.SERVICE, "support", "tickets")]["metadata"]["ownerReferences"] = [owner]
    world.reconcile()
    assert world.condition("Stalled") == (
        TRUE,
        "NameConflict",
        "Service tickets exists and belongs to StatefulSet db; delete it or create this object under another name",
    )


def test_a_changed_server_changes_the_template_and_nothing_else() -> None:
    world = serving()
    world.edit(server={"maxModelLen": 2048}, compute={"gpus": 0})
    (patch,) = [action for action in world.plan().actions if isinstance(action, Patch)]
    assert patch.ref == DEPLOYMENT
    assert set(patch.patch["spec"]) == {"template"}
    world.settle()
    engine = world.children[DEPLOYMENT]["spec"]["template"]["spec"]["containers"][0]
    assert engine["args"][-1] == "--enforce-eager"


def test_what_the_spec_wants_no_more_leaves_the_template() -> None:
    world = World(compute={"nodeSelector": {"zone": "a"}})
    world.tune(FIRST)
    world.settle()
    world.edit(compute={})
    world.settle()
    assert "nodeSelector" not in world.children[DEPLOYMENT]["spec"]["template"]["spec"]


def test_replicas_scaled_by_hand_are_set_back() -> None:
    world = serving(pods=2)
    world.children[DEPLOYMENT]["spec"]["replicas"] = 1
    (patch,) = world.plan().actions
    assert isinstance(patch, Patch)
    assert patch.patch == {"spec": {"replicas": 2}}
