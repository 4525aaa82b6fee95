"""What holds for every history of edits, ends, crashes and waits: one live attempt, rest at last, no lost adapter."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from loraline_api.finetune_status import MAX_HISTORY
from loraline_operator import naming
from unit.operator.world import World


class Histories(RuleBasedStateMachine):
    """Random histories of one fine-tune."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(rank=st.sampled_from([8, 16]))
    def edit(self, rank: int) -> None:
        self.world.finetune = self.world.finetune.with_rank(rank)

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self.world.finetune = self.world.finetune.with_spec("suspend", suspend)

    @rule(cpu=st.sampled_from(["1", "2"]))
    def change_compute(self, cpu: str) -> None:
        self.world.finetune = self.world.finetune.with_spec("compute.requests", {"cpu": cpu})

    @rule(seconds=st.sampled_from([0, 60]))
    def change_ttl(self, seconds: int) -> None:
        self.world.finetune = self.world.finetune.with_spec("ttlSecondsAfterFinished", seconds)

    @rule(value=st.sampled_from(["a", "b"]))
    def restart(self, value: str) -> None:
        self.world.finetune = self.world.finetune.with_metadata(annotations={naming.RESTART_ANNOTATION: value})

    @rule()
    def exceed_deadline(self) -> None:
        self.world.exceed_deadline()

    @rule()
    def lose_pods(self) -> None:
        self.world.lose_pods()

    @rule(nodes=st.sampled_from([1, 2]), room=st.integers(0, 2))
    def change_nodes(self, nodes: int, room: int) -> None:
        self.world.finetune = self.world.finetune.with_spec("compute.nodes", nodes)
        self.world.room = room

    @rule(queue=st.sampled_from([{}, {naming.KUEUE_QUEUE_LABEL: "gpus"}]))
    def change_queue(self, queue: dict[str, str]) -> None:
        self.world.finetune = self.world.finetune.with_metadata(labels=queue)

    @rule()
    def admit(self) -> None:
        self.world.admit()

    @rule()
    def preempt(self) -> None:
        self.world.preempt()

    @rule()
    def reconcile(self) -> None:
        self.world.reconcile()

    @rule(writes=st.integers(0, 3))
    def reconcile_and_crash(self, writes: int) -> None:
        self.world.reconcile(writes)

    @rule()
    def start_pods(self) -> None:
        self.world.start_pods()

    @rule(code=st.sampled_from([0, 0, 1, 12, 40, 41]))
    def end_pod(self, code: int) -> None:
        self.world.end_pod(code)

    @rule()
    def lose_jobs(self) -> None:
        self.world.lose_jobs()

    @rule()
    def end_deleted_pods(self) -> None:
        self.world.end_deleted_pods()

    @rule(seconds=st.sampled_from([1, 10, 700]))
    def wait(self, seconds: int) -> None:
        self.world.wait(seconds)

    @invariant()
    def what_always_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """A plan applied to its own result is empty; then, if nothing holds it back, training ends in success."""
        self.world.settle()
        assert self.world.reconcile()
        self.world.finetune = self.world.finetune.with_spec("suspend", False)
        self.world.play()
        assert self.world.finetune.object().status.phase in ("Succeeded", "Failed")


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_run_that_succeeded_is_never_trained_again() -> None:
    """Back and forth between two recipes makes one Job for each."""
    world = World()
    for rank in (8, 16, 8, 16, 8):
        world.finetune = world.finetune.with_rank(rank)
        world.settle()
        world.start_pods()
        world.end_pod(0)
        world.settle()
    assert len(world.created) == 2


def test_the_history_is_bounded_and_finds_what_it_holds() -> None:
    """Of twelve recipes the last ten are found again without a Job; for the first a Job looks into the storage."""
    world = World()

    def tune(rank: int) -> int:
        world.finetune = world.finetune.with_rank(rank)
        world.settle()
        world.start_pods()
        world.end_pod(0)
        world.settle()
        assert world.phase == "Succeeded"
        return len(world.created)

    for rank in range(1, 13):
        tune(rank)
    assert len(world.finetune.object().status.history) == MAX_HISTORY
    assert [tune(rank) for rank in (3, 12, 7)] == [12, 12, 12]
    world.succeeded.clear()  # what the history has lost counts as new
    assert tune(1) == 13
    assert len(world.finetune.object().status.history) == MAX_HISTORY
