"""What is planned when the data of a configmap:// source is there, missing, too large, or gone after the run."""

from __future__ import annotations

import pytest

from loraline_operator.actions import Kind
from loraline_operator.observed_finetune import Data, DataProblem, Job, MissingData
from unit.operator.builders import (
    FineTuneBuilder,
    a_finetune,
    a_job,
    a_pod,
    a_snapshot,
    an_ended_pod,
    an_outcome,
    complete,
    seen,
)
from unit.operator.planning import after, names, planned, status_of, told

THERE: dict[str, Data | MissingData] = {"train": Data("{}", "aa", 2)}
MISSING: dict[str, Data | MissingData] = {"train": MissingData(DataProblem.NO_CONFIG_MAP)}


def running_on_data() -> tuple[FineTuneBuilder, Job]:
    """A fine-tune that trains on the data of a ConfigMap, and its Job."""
    builder = after(a_finetune().with_spec("dataset.train.uri", "configmap://data/train"), seen(data=THERE))
    current = builder.object().status.run
    assert current is not None
    assert current.settings_hash is not None
    return builder, a_job(current.id, current.settings_hash)


def finished_on_data() -> FineTuneBuilder:
    """The same after its success."""
    builder, job = running_on_data()
    done = complete(job)
    return after(builder, seen(done, an_ended_pod(done, 0, an_outcome(done.run_id)), data=THERE))


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        pytest.param(
            MissingData(DataProblem.NO_CONFIG_MAP),
            "DatasetNotFound",
            "spec.dataset.train.uri is configmap://data/train, and there is no ConfigMap data in this namespace; "
            "create it",
            id="no ConfigMap",
        ),
        pytest.param(
            MissingData(DataProblem.NO_KEY, ("eval", "trian")),
            "DatasetNotFound",
            "spec.dataset.train.uri is configmap://data/train, and the ConfigMap data has no key train "
            "(its keys: eval, trian); add it or name another",
            id="no such key",
        ),
        pytest.param(
            Data("", "00", 1_000_000),
            "DatasetInvalid",
            "spec.dataset: the configmap:// data has 1000000 bytes and the limit is 921600; put it into s3://, pvc:// "
            "or https:// instead",
            id="too much for a ConfigMap",
        ),
    ],
)
def test_data_that_is_not_there_is_waited_for(data: Data | MissingData, reason: str, message: str) -> None:
    builder = a_finetune().with_spec("dataset.train.uri", "configmap://data/train")
    plan = planned(builder, seen(data={"train": data}))
    assert (plan.actions, told(status_of(plan)), plan.requeue_after_s) == ((), ("False", reason, message), 15)


def test_a_finished_run_outlives_its_data() -> None:
    builder = finished_on_data()
    plan = planned(builder, seen(data=MISSING))
    assert (builder.object().status.phase, plan.status == builder.object().status) == ("Succeeded", True)


def test_a_run_that_has_begun_goes_on_without_its_data() -> None:
    builder, job = running_on_data()
    plan = planned(builder, seen(a_snapshot(job.run_id), data=MISSING))
    assert names(plan.actions) == [("Create", Kind.JOB, job.name)]


def test_an_edit_that_is_no_input_leaves_a_success_whose_data_is_gone() -> None:
    builder = finished_on_data().with_spec("ttlSecondsAfterFinished", 600)
    plan = planned(builder, seen(data=MISSING))
    assert status_of(plan).phase == "Succeeded"


def test_a_run_for_other_data_ends_when_the_new_data_is_not_there() -> None:
    builder, job = running_on_data()
    edited = builder.with_spec("dataset.train.uri", "configmap://typo/train")
    plan = planned(edited, seen(job, a_pod(job), data=MISSING))
    assert names(plan.actions) == [("Delete", Kind.JOB, job.name)]
    assert told(status_of(plan))[1] == "DatasetNotFound"
