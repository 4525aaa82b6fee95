"""A run's id is the hash of its inputs and of nothing else."""

from typing import Any

import pytest

from loraline_api import run
from loraline_api.finetune import LoraFineTuneSpec


def a_spec(**changes: Any) -> LoraFineTuneSpec:
    spec = {
        "baseModel": {"uri": "hf://org/model"},
        "dataset": {"train": {"uri": "configmap://tickets/train.jsonl"}},
        "output": {"uri": "s3://bucket/prefix"},
    }
    return LoraFineTuneSpec.model_validate(spec | changes)


def run_id(spec: LoraFineTuneSpec, name: str = "tickets", data: str = "a" * 64, restart: str | None = None) -> str:
    return run.resolve(name, "team", spec, data_digests={"train": data}, restart=restart).id


def test_equal_inputs_of_two_fine_tunes_are_the_same_run() -> None:
    assert run_id(a_spec(), name="one") == run_id(a_spec(), name="two")


def test_a_default_and_the_same_value_written_out_are_the_same_run() -> None:
    assert run_id(a_spec()) == run_id(a_spec(adapter={"rank": 16, "alpha": 32}))


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(a_spec(adapter={"rank": 8}), id="another rank"),
        pytest.param(a_spec(training={"seed": 1}), id="another seed"),
        pytest.param(
            a_spec(baseModel={"uri": "hf://org/model", "revision": "v2"}), id="another revision of the base model"
        ),
        pytest.param(a_spec(output={"uri": "s3://bucket/elsewhere"}), id="another place for the adapter"),
    ],
)
def test_a_changed_input_is_another_run(spec: LoraFineTuneSpec) -> None:
    assert run_id(spec) != run_id(a_spec())


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(a_spec(compute={"gpus": 0}), id="compute"),
        pytest.param(a_spec(compute={"nodes": 2}), id="nodes"),
        pytest.param(a_spec(retries=5), id="retries"),
        pytest.param(a_spec(memoryProfile="lean"), id="the memory profile"),
        pytest.param(a_spec(checkpoint={"interval": 10}), id="checkpoint"),
        pytest.param(a_spec(output={"uri": "s3://bucket/prefix", "secretRef": {"name": "keys"}}), id="a Secret"),
    ],
)
def test_what_trains_nothing_leaves_the_run_and_changes_its_settings(spec: LoraFineTuneSpec) -> None:
    assert run_id(spec) == run_id(a_spec())
    assert run.settings_hash(spec) != run.settings_hash(a_spec())


def test_what_becomes_of_the_output_changes_neither_the_run_nor_its_settings() -> None:
    deleted = a_spec(output={"uri": "s3://bucket/prefix", "deletionPolicy": "Delete"})
    assert (run_id(deleted), run.settings_hash(deleted)) == (run_id(a_spec()), run.settings_hash(a_spec()))


def test_fields_that_came_later_leave_the_hashes_of_fine_tunes_without_them() -> None:
    """As version 0.1 hashed them, with the optimizer that was the default then and is in the objects of that time."""
    spec = a_spec(training={"optimizer": "paged_adamw_8bit"})
    assert (run_id(spec), run.settings_hash(spec)) == ("0dbf246efe", "884ca983be")


def test_the_settings_of_a_fine_tune_that_names_no_memory_profile_are_those_of_before_it_existed() -> None:
    assert run.settings_hash(a_spec(memoryProfile="auto")) == run.settings_hash(a_spec()) == "884ca983be"


def test_the_settings_of_a_fine_tune_that_is_older_than_checkpoints_are_as_they_were() -> None:
    """Else an upgrade would try every failed run again."""
    spelled_out = a_spec(checkpoint={"interval": 50, "keep": 2})
    assert run.settings_hash(spelled_out) == run.settings_hash(a_spec())


def test_suspending_changes_neither_the_run_nor_its_settings() -> None:
    suspended = a_spec(suspend=True)
    assert (run_id(suspended), run.settings_hash(suspended)) == (run_id(a_spec()), run.settings_hash(a_spec()))


def test_changed_data_is_another_run_and_going_back_is_the_first_one_again() -> None:
    first, second = run_id(a_spec(), data="a" * 64), run_id(a_spec(), data="b" * 64)
    assert first != second
    assert run_id(a_spec(), data="a" * 64) == first


def test_a_new_restart_value_is_another_run() -> None:
    assert run_id(a_spec(), restart="2026-11-22") not in {run_id(a_spec()), run_id(a_spec(), restart="again")}


def test_a_field_that_is_not_set_is_no_input_so_that_a_new_optional_field_keeps_all_ids() -> None:
    resolved = run.resolve("tickets", "team", a_spec(), data_digests={})
    assert "maxSteps" not in resolved.inputs["training"]
