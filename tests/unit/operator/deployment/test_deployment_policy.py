"""An AdapterDeployment under a policy: what is new is refused, what serves goes on."""

from __future__ import annotations

from loraline_api.deployment import AdapterDeploymentStatus
from loraline_api.policy import Policy
from loraline_operator import plan_deployment
from loraline_operator.actions import Plan
from unit.operator.builders import SETTINGS
from unit.operator.deployment.serving_world import FIRST, SECOND, World

STRICT = Policy.model_validate({"limits": {"gpusPerDeployment": 1}})
NO_MODEL = Policy.model_validate({"baseModels": ["hf://other/*"]})


class PolicyWorld(World):
    """A serving world under a policy."""

    policy = Policy()

    def plan(self) -> Plan[AdapterDeploymentStatus]:
        """The plan under the policy of now."""
        return plan_deployment.plan(self.object, self._observed(), SETTINGS, self.now, self.policy)


def a_world(policy: Policy = STRICT, *, pods: int = 1) -> PolicyWorld:
    """A world with a published adapter and one GPU for each pod."""
    world = PolicyWorld(pods=pods, compute={"gpus": 1})
    world.policy = policy
    world.tune(FIRST)
    return world


def reason(world: World) -> str:
    """Reason of Ready."""
    ready = world.condition("Ready")
    assert ready is not None
    return ready[1]


def test_a_new_one_over_the_limit_gets_no_children_and_says_the_limit() -> None:
    world = a_world(pods=2)
    world.settle()
    assert world.children == {}
    ready = world.condition("Ready")
    assert ready is not None
    assert ready[1:] == (
        "PolicyViolation",
        "spec.replicas is 2 and spec.compute.gpus is 1, which is 2 GPUs, and the policy of namespace support allows 1; "
        "lower spec.replicas, or ask the platform team",
    )


def test_an_edit_over_the_limit_is_not_carried_out_and_what_serves_stays() -> None:
    world = a_world()
    world.settle()
    served = world.table
    world.edit(replicas=2)
    world.settle()
    assert reason(world) == "PolicyViolation"
    assert world.table == served
    world.edit(replicas=1)
    world.settle()
    assert reason(world) == "Serving"


def test_a_stricter_policy_leaves_alone_what_serves_and_lets_new_versions_in() -> None:
    world = a_world(Policy())
    world.settle()
    world.policy = NO_MODEL
    world.settle()
    assert reason(world) == "Serving"
    world.tune(SECOND)
    world.settle()
    assert [route.version for route in world.status.routes] == [SECOND]


def test_a_looser_policy_lets_in_what_was_refused() -> None:
    world = a_world(pods=2)
    world.settle()
    world.policy = Policy()
    world.settle()
    assert reason(world) == "Serving"
