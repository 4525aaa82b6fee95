"""How hyperparameters are resolved; expected numbers are counted by hand."""

from __future__ import annotations

import pytest

from loraline_api.finetune import Training
from loraline_trainer import errors
from loraline_trainer.training import plan

CPU = plan.Machine(free_bytes=None, layers=30, hidden=576)
LARGE_GPU = plan.Machine(free_bytes=70 * 2**30, layers=32, hidden=4096)
SMALL_GPU = plan.Machine(free_bytes=4 * 2**30, layers=32, hidden=4096)

STEPS = [
    pytest.param(Training(batch_size=8), 75, 10, id="the last step of an epoch may be short"),
    pytest.param(Training(batch_size=8, epochs=2), 75, 20, id="two epochs"),
    pytest.param(Training(batch_size=8, epochs=0.5), 80, 5, id="half an epoch"),
    pytest.param(Training(batch_size=16), 3, 1, id="fewer examples than a batch"),
    pytest.param(Training(batch_size=8, epochs=9, max_steps=30), 75, 30, id="maxSteps overrides epochs"),
]


@pytest.mark.parametrize(("training", "examples", "steps"), STEPS)
def test_steps_follow_from_examples_and_batch_size(training: Training, examples: int, steps: int) -> None:
    assert plan.resolve(training, CPU, examples=examples, longest=100).total_steps == steps


MICRO = [
    pytest.param(Training(batch_size=8), CPU, 100, 8, False, id="eight short sequences fit a CPU's forward pass"),
    pytest.param(Training(batch_size=8), CPU, 600, 2, False, id="of three sequences that fit, two divide eight"),
    pytest.param(Training(batch_size=8), CPU, 4096, 1, False, id="a sequence longer than a forward pass goes alone"),
    pytest.param(Training(batch_size=7), CPU, 600, 1, False, id="seven has no divisor but one"),
    pytest.param(Training(batch_size=16), LARGE_GPU, 2048, 2, False, id="a large GPU holds two full rows"),
    pytest.param(Training(batch_size=16), LARGE_GPU, 512, 8, False, id="a large GPU holds eight rows of 512"),
    pytest.param(Training(batch_size=16), SMALL_GPU, 2048, 8, True, id="a small GPU computes activations again"),
    pytest.param(Training(batch_size=8, micro_batch_size=4), CPU, 4096, 4, False, id="the recipe's choice stands"),
]


@pytest.mark.parametrize(("training", "machine", "longest", "micro", "checkpointing"), MICRO)
def test_the_micro_batch_is_the_largest_divisor_that_fits(
    training: Training, machine: plan.Machine, longest: int, micro: int, checkpointing: bool
) -> None:
    resolved = plan.resolve(training, machine, examples=1000, longest=longest)
    assert resolved.micro_batch_size == micro
    assert resolved.micro_batch_size * resolved.accumulation == training.batch_size
    assert resolved.checkpointing is checkpointing


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        plan.resolve(Training(batch_size=16, micro_batch_size=3), CPU, examples=100, longest=100)
    assert str(caught.value) == (
        "training.microBatchSize is 3 and training.batchSize is 16: batchSize must be a multiple of microBatchSize; "
        "choose a divisor of 16"
    )


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(errors.InvalidSpec) as caught:
        plan.resolve(Training(batch_size=7), CPU, examples=100, longest=100, world_size=2)
    assert str(caught.value) == (
        "training.batchSize is 7 and 2 processes train (compute.nodes times compute.gpus): batchSize must be a "
        "multiple of 2; choose 8, or fewer nodes"
    )


def test_processes_share_the_batch_and_not_the_micro_batch() -> None:
    resolved = plan.resolve(Training(batch_size=16, micro_batch_size=4), CPU, examples=100, longest=100, world_size=2)
    assert (resolved.micro_batch_size, resolved.accumulation, resolved.steps_per_epoch) == (4, 2, 7)
    with pytest.raises(errors.InvalidSpec, match=r"batchSize is 16 \(a share of 8 for each process\)"):
        plan.resolve(Training(batch_size=16, micro_batch_size=16), CPU, examples=9, longest=9, world_size=2)


def test_training_goes_on_with_the_micro_batch_of_its_checkpoint() -> None:
    """Another GPU may have room for another one, which would sum in another order."""
    resolved = plan.resolve(Training(batch_size=16), CPU, examples=100, longest=100, saved_micro_batch=2)
    assert (resolved.micro_batch_size, resolved.accumulation) == (2, 8)


OPTIMIZERS = [
    pytest.param("paged_adamw_8bit", CPU, "adamw_torch", "derived", id="8-bit optimizers become adamw on CPUs"),
    pytest.param("adamw", CPU, "adamw_torch", "default", id="adamw stays on CPUs"),
    pytest.param("adamw", LARGE_GPU, "adamw_torch_fused", "default", id="the default on GPUs"),
    pytest.param("paged_adamw_8bit", LARGE_GPU, "paged_adamw_8bit", "spec", id="paged states on GPUs"),
    pytest.param("adamw_8bit", LARGE_GPU, "adamw_bnb_8bit", "spec", id="another one on GPUs"),
]


@pytest.mark.parametrize(("asked", "machine", "name", "source"), OPTIMIZERS)
def test_the_optimizer_fits_the_machine_and_says_whence_it_came(
    asked: str, machine: plan.Machine, name: str, source: str
) -> None:
    training = Training.model_validate({"optimizer": asked})
    resolved = plan.resolve(training, machine, examples=10, longest=10)
    assert resolved.optimizer == name
    assert {setting.name: setting.source for setting in resolved.settings}["optimizer"] == source


def test_every_hyperparameter_is_listed_once() -> None:
    resolved = plan.resolve(Training(learning_rate=1e-3), CPU, examples=10, longest=10)
    names = [setting.name for setting in resolved.settings]
    sources = {setting.name: setting.source for setting in resolved.settings}
    assert len(names) == len(set(names))
    assert sources["learningRate"] == "spec"
    assert sources["weightDecay"] == "default"
    assert sources["microBatchSize"] == "derived"


def test_a_run_of_one_step_has_no_warm_up() -> None:
    """A step of warm-up has a learning rate of 0: nothing would be learned."""
    assert plan.resolve(Training(max_steps=1), CPU, examples=10, longest=10).warmup_steps == 0
