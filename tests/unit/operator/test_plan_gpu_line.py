"""The line for the GPUs of a namespace: who starts, who waits for whom, and that it never stands still."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraline_operator import observed_claims, plan_gpu_line
from loraline_operator.observed_claims import Claim
from loraline_operator.plan_gpu_line import Wait
from unit.operator.builders import NOW, UID, a_finetune


def holder(name: str, gpus: int = 1) -> Claim:
    """A fine-tune with a live Job."""
    return Claim(name, NOW, gpus, holds=True, waits=True, jobs=(f"{name}-job",))


def waiter(name: str, age_s: int = 0, gpus: int = 1) -> Claim:
    """A fine-tune in the line, older by so many seconds than the youngest."""
    return Claim(name, NOW - timedelta(seconds=age_s), gpus, waits=True)


def waits(*claims: Claim, name: str = "me", gpus: int = 1, limit: int | None = 2) -> Wait | None:
    """What that fine-tune waits for."""
    return plan_gpu_line.wait(claims, name, gpus, "support", limit)


@pytest.mark.parametrize(
    ("claims", "limit"),
    [
        pytest.param((holder("a"), waiter("me")), 2, id="room beside the holders"),
        pytest.param((waiter("a", 9), waiter("me")), 2, id="room for it and the one before it"),
        pytest.param((holder("a"), waiter("me", 9), waiter("b")), 2, id="a younger one waits too"),
        pytest.param((holder("a"), holder("b"), waiter("me")), None, id="no limit"),
        pytest.param((holder("a"), holder("me"), waiter("b", 9)), 2, id="it asks anew and keeps its place"),
    ],
)
def test_it_starts_when_there_is_room(claims: tuple[Claim, ...], limit: int | None) -> None:
    assert waits(*claims, limit=limit) is None


def test_the_first_in_the_line_names_limit_and_holders() -> None:
    wait = waits(holder("b"), holder("a"), waiter("me"))
    assert wait is not None
    assert wait.message == (
        "spec.compute asks for 1 GPU and the policy of namespace support allows 2 at once, of which 2 are held by a, "
        "b; it starts when they end"
    )
    assert wait.waiting.jobs == ["a-job", "b-job"]


def test_the_others_name_only_the_one_before_them_so_that_few_statuses_change() -> None:
    wait = waits(holder("a"), holder("b"), waiter("c", 9), waiter("d", 8), waiter("me"))
    assert wait is not None
    assert wait.message == (
        "spec.compute asks for 1 GPU and the policy of namespace support allows 2 at once; it is in line after d"
    )
    assert wait.waiting.behind == "d"


def test_a_small_one_never_passes_a_large_one() -> None:
    wait = waits(holder("a"), waiter("large", 9, gpus=2), waiter("me"))
    assert wait is not None
    assert wait.waiting.behind == "large"


def test_names_decide_between_those_of_the_same_second() -> None:
    assert waits(waiter("a"), waiter("me"), limit=1) is not None
    assert waits(waiter("z"), waiter("me"), limit=1) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.booleans()), max_size=12), st.integers(4, 6))
def test_the_line_never_stands_still_and_never_holds_more_than_the_limit(
    drawn: list[tuple[int, int, bool]], limit: int
) -> None:
    left = [waiter(f"f{number}", age, gpus) for number, (age, gpus, _) in enumerate(drawn)]
    held: list[Claim] = []
    for _ in range(3 * len(drawn) + 1):
        for claim in list(left):
            if waits(*held, *left, name=claim.name, gpus=claim.gpus, limit=limit) is None:
                left.remove(claim)
                held.append(holder(claim.name, claim.gpus))
        assert sum(claim.gpus for claim in held) <= limit
        if not left:
            return
        assert held  # somebody runs, so somebody ends
        held.pop()
    raise AssertionError(f"still in the line: {left}")


def a_claim(spec: dict[str, Any], status: dict[str, Any], jobs: tuple[str, ...] = (), **metadata: Any) -> Claim:
    """The claim of a fine-tune with that spec and status."""
    manifest = a_finetune().with_metadata(**metadata).manifest
    manifest["spec"] |= spec
    manifest["status"] = status
    return observed_claims.claim(manifest, {UID: jobs} if jobs else {})


def ready(reason: str, generation: int = 1, phase: str = "Pending") -> dict[str, Any]:
    """A status whose Ready has that reason."""
    conditions = [{"type": "Ready", "status": "False", "reason": reason}]
    return {"observedGeneration": generation, "phase": phase, "conditions": conditions}


@pytest.mark.parametrize(
    ("claim", "holds", "waits_too"),
    [
        pytest.param(a_claim({}, {}), False, True, id="a new one is in the line"),
        pytest.param(a_claim({}, {}, ("job",)), True, True, id="a live Job holds, before any status says so"),
        pytest.param(a_claim({}, {"run": {"admitted": True}}), True, True, id="a run between two attempts holds"),
        pytest.param(
            a_claim({}, {"run": {"admitted": True, "completionTime": "x"}, **ready("Succeeded", phase="Succeeded")}),
            False,
            False,
            id="a finished one neither",
        ),
        pytest.param(a_claim({}, ready("PolicyViolation")), False, False, id="a refused one neither"),
        pytest.param(
            a_claim({}, ready("PolicyViolation", generation=0)), False, True, id="an edited one is judged anew"
        ),
        pytest.param(a_claim({}, ready("DatasetNotFound")), False, False, id="one without data neither"),
        pytest.param(a_claim({"suspend": True}, {}), False, False, id="a suspended one neither"),
        pytest.param(
            a_claim({"suspend": True}, {"run": {"admitted": True}}, ("job",)),
            True,
            False,
            id="one whose pod still ends",
        ),
        pytest.param(
            a_claim({}, {}, deletionTimestamp="2026-11-22T12:00:00Z"), False, False, id="a deleted one neither"
        ),
    ],
)
def test_claims_are_read_from_objects_and_jobs(claim: Claim, holds: bool, waits_too: bool) -> None:
    assert (claim.holds, claim.waits) == (holds, waits_too)


def test_a_fine_tune_on_cpus_claims_nothing() -> None:
    assert a_claim({"compute": {"gpus": 0}}, {}).gpus == 0


def test_one_whose_job_has_ended_holds_its_gpus_until_its_status_says_so_which_then_wakes_the_next() -> None:
    wait = waits(replace(holder("a"), jobs=()), holder("b"), waiter("me"))
    assert wait is not None
    assert (wait.waiting.behind, wait.waiting.jobs) == ("a", ["b-job"])
