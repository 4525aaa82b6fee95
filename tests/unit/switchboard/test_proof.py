"""When greedy answers prove an adapter."""

from __future__ import annotations

import math

import pytest

from loraline_api.probe import ProbeAnswer
from loraline_switchboard.proof import why_not_proved


def an_answer(token_ids: list[int], logprobs: list[float]) -> ProbeAnswer:
    return ProbeAnswer(token_ids=token_ids, logprobs=logprobs)


BASE = an_answer([1, 2, 3], [-0.5, -1.0, -1.5])


@pytest.mark.parametrize(
    ("answer", "lack"),
    [
        pytest.param(an_answer([1, 2, 4], BASE.logprobs), None, id="another token proves it"),
        pytest.param(an_answer(BASE.token_ids, [-0.5, -1.0, -1.49]), None, id="another log-probability proves it"),
        pytest.param(BASE, "answers the probe exactly as the base model does", id="the same answer does not"),
        pytest.param(
            an_answer(BASE.token_ids, [-0.5, -1.0, -1.50001]), "so it has no effect", id="a rounding error does not"
        ),
        pytest.param(an_answer([0, 0, 0], [math.nan] * 3), "are not numbers", id="NaN does not"),
        pytest.param(an_answer([], []), "are not numbers", id="an empty answer does not"),
    ],
)
def test_proofs(answer: ProbeAnswer, lack: str | None) -> None:
    found = why_not_proved(answer, BASE)
    assert (found is None) if lack is None else (found is not None and lack in found)


def test_equal_tokens_have_equal_fingerprints() -> None:
    assert an_answer([1, 2], [0.0, 0.0]).fingerprint == an_answer([1, 2], [-1.0, -1.0]).fingerprint
    assert an_answer([1, 2], [0.0, 0.0]).fingerprint != an_answer([2, 1], [0.0, 0.0]).fingerprint
