"""Which prompts are answered together."""

from __future__ import annotations

import pytest

from loraline_trainer.evaluation import answers

TABLE = [
    pytest.param([10] * 40, [32, 8], id="short prompts: bounded by their number"),
    pytest.param([8_000] * 10, [4, 4, 2], id="long prompts: bounded by their tokens"),
    pytest.param([1_000, 9_000, 9_000, 20_000], [3, 1], id="each counts as much as the longest, as all are filled up"),
    pytest.param([40_000, 40_000], [1, 1], id="a prompt over the bound is alone"),
    pytest.param([], [], id="no prompts"),
]


@pytest.mark.parametrize(("lengths", "expected"), TABLE)
def test_a_batch_is_bounded_by_prompts_and_by_tokens(lengths: list[int], expected: list[int]) -> None:
    made = list(answers.batches(range(len(lengths)), lengths))
    assert [len(batch) for batch in made] == expected
    assert [number for batch in made for number in batch] == list(range(len(lengths)))
