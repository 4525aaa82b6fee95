"""Trainings that are deleted, killed, held or edited in the middle: the same end as without, to the last byte.

Most of each act is waiting, so all go on side by side; each test looks at what came of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

import pytest

from demo.kubectl import Object, condition
from e2e import acts
from e2e.stage import Stage, resumed_step, version_of

AT_ONCE = 4
"""Acts side by side: so many that their waits overlap, and so few that no training is starved on two cores."""

ACTS: tuple[Callable[[Stage], Any], ...] = (
    acts.delete_it_while_it_resumes,
    acts.give_it_too_little_memory,
    acts.take_its_memory,
    acts.let_its_deadline_pass_in_a_retry,
    acts.edit_and_suspend_it,
    acts.kill_its_trainer,
    acts.delete_its_pod,
    acts.delete_its_job,
    acts.edit_it,
)
"""Those that take longest first."""

T = TypeVar("T")


class Ends:
    """What comes of acts that have begun."""

    def __init__(self, stage: Stage, pool: ThreadPoolExecutor) -> None:
        self._futures: dict[object, Future[Any]] = {act: pool.submit(act, stage) for act in ACTS}

    def of(self, act: Callable[[Stage], T]) -> T:
        """What came of this act."""
        return cast("T", self._futures[act].result())


@pytest.fixture(scope="module")
def ends(stage: Stage, untouched: str) -> Iterator[Ends]:
    """The acts, all begun."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield Ends(stage, pool)


def ready(found: Object) -> Object:
    """The condition Ready."""
    return condition(found, "Ready") or {}


def test_a_run_goes_on_while_the_operator_is_deleted(stage: Stage, untouched: str) -> None:
    assert version_of(stage.finetune("operator-deleted")) == untouched


def test_a_run_whose_job_is_deleted_goes_on_under_the_same_name(stage: Stage, ends: Ends, untouched: str) -> None:
    name, uid, found = ends.of(acts.delete_its_job)
    assert found["status"]["run"]["jobName"] == name
    assert stage.jobs("job-deleted")[name] != uid
    assert version_of(found) == untouched


def test_a_run_whose_pod_is_deleted_goes_on_from_its_last_step_to_the_same_adapter(ends: Ends, untouched: str) -> None:
    found = ends.of(acts.delete_its_pod)
    assert resumed_step(found) > 0
    assert version_of(found) == untouched


def test_a_run_whose_trainer_is_killed_goes_on_from_its_last_checkpoint_to_the_same_adapter(
    ends: Ends, untouched: str
) -> None:
    found = ends.of(acts.kill_its_trainer)
    assert found["status"]["run"]["attempt"] == 2
    assert resumed_step(found) >= 20
    assert resumed_step(found) % 20 == 0
    assert version_of(found) == untouched


def test_a_run_that_the_kernel_kills_for_its_memory_goes_on_from_its_last_checkpoint_to_the_same_adapter(
    ends: Ends, untouched: str
) -> None:
    pod, found = ends.of(acts.take_its_memory)
    (container,) = pod["status"]["containerStatuses"]
    killed = container["state"]["terminated"]
    assert (killed["reason"], killed["exitCode"]) == ("OOMKilled", 137)
    run = found["status"]["run"]
    assert (run["attempt"], run["failures"]) == (2, 1)
    assert resumed_step(found) >= 20
    assert version_of(found) == untouched


def test_a_run_with_too_little_memory_says_the_limit_and_the_remedy_and_goes_on_with_more(ends: Ends) -> None:
    failed, found = ends.of(acts.give_it_too_little_memory)
    assert ready(failed)["reason"] == "BackoffLimitExceeded"
    assert "2 attempts failed and spec.retries is 1; the last ended with OutOfMemory" in ready(failed)["message"]
    assert f"was killed at its memory limit, {acts.TOO_LITTLE} (exit code 137)" in ready(failed)["message"]
    assert "raise spec.compute.requests.memory" in ready(failed)["message"]
    assert found["status"]["run"]["id"] == failed["status"]["run"]["id"]


def test_a_deadline_that_passes_in_a_retry_ends_the_run_though_retries_are_left(stage: Stage, ends: Ends) -> None:
    found = ends.of(acts.let_its_deadline_pass_in_a_retry)
    assert ready(found)["reason"] == "DeadlineExceeded"
    assert f"spec.activeDeadlineSeconds is, {acts.DEADLINE_S} s" in ready(found)["message"]
    assert (found["status"]["run"]["attempt"], len(stage.jobs("deadline"))) == (2, 2)
    assert acts.live(stage.pods("deadline")) == []


def test_an_edit_in_the_middle_is_a_new_run_and_the_old_one_ends(ends: Ends) -> None:
    old, found = ends.of(acts.edit_it)
    assert found["status"]["run"]["id"] != old["status"]["run"]["id"]


def test_an_edit_that_suspends_as_well_holds_the_new_run_and_letting_go_runs_that(ends: Ends) -> None:
    old, held, found = ends.of(acts.edit_and_suspend_it)
    assert held["status"]["run"]["id"] != old["status"]["run"]["id"]
    assert "adapter" not in held["status"]
    assert found["status"]["run"]["id"] == held["status"]["run"]["id"]
    assert found["status"]["progress"]["step"] == 2


def test_a_run_that_is_deleted_while_it_resumes_leaves_neither_jobs_nor_pods(stage: Stage, ends: Ends) -> None:
    ends.of(acts.delete_it_while_it_resumes)
    assert stage.finetune("goes") == {}
    assert stage.jobs("goes") == {}
    assert stage.pods("goes") == []


def test_a_pod_deletes_what_a_deleted_run_published_and_saved_and_nothing_else(stage: Stage, ends: Ends) -> None:
    goes, before, after = ends.of(acts.delete_it_while_it_resumes)
    published, held = goes["status"]["history"][0], goes["status"]["run"]["id"]
    own = (
        f"shared/adapters/{published['version']}/",
        f"shared/runs/{published['runId']}.json",
        f"shared/checkpoints/{held}/",
    )
    lay_there = [[key for key, _ in before if key.startswith(place)] for place in own]
    assert all(lay_there), before
    assert after == [(key, size) for key, size in before if not key.startswith(own)]
    stays = stage.finetune("stays")["status"]["adapter"]
    assert f"shared/adapters/{stays['version']}/manifest.json" in dict(after)
    started = stage.kubectl.items("events", fields="involvedObject.kind=Pod,reason=Started")
    pods = {event["involvedObject"]["name"] for event in started}
    assert any(pod.startswith(f"goes-delete-{goes['metadata']['uid'][:8]}-") for pod in pods)
