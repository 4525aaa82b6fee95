"""When a gate lets an adapter through."""

from __future__ import annotations

import math

import pytest

from loraline_api.finetune import Gate, Metric
from loraline_trainer import errors
from loraline_trainer.evaluation import gates

KEPT = [
    pytest.param(Gate(metric=Metric.EXACT_MATCH, min=0.9), 0.9, id="exactly the least value"),
    pytest.param(Gate(metric=Metric.LOSS, max=1.0), 1.0, id="exactly the greatest value"),
    pytest.param(Gate(metric=Metric.LOSS, min=0.0, max=1.0), 0.5, id="between both"),
]


@pytest.mark.parametrize(("gate", "value"), KEPT)
def test_a_kept_limit_passes(gate: Gate, value: float) -> None:
    gates.check([gate], {gate.metric: value})


MISSED = [
    pytest.param(
        Gate(metric=Metric.EXACT_MATCH, min=0.9),
        {Metric.EXACT_MATCH: 0.25},
        "exactMatch is 0.25 after training, and its gate asks for at least 0.9",
        id="too low",
    ),
    pytest.param(
        Gate(metric=Metric.LOSS, max=1.5),
        {Metric.LOSS: 2.598123},
        "loss is 2.598 after training, and its gate asks for at most 1.5",
        id="too high",
    ),
    pytest.param(
        Gate(metric=Metric.LOSS, max=1.5),
        {Metric.LOSS: math.nan},
        "loss is nan after training, and its gate asks for at most 1.5",
        id="not a number",
    ),
    pytest.param(
        Gate(metric=Metric.LOSS, max=1.5),
        {},
        "loss was not measured, as there are no held-out examples",
        id="not measured",
    ),
]


@pytest.mark.parametrize(("gate", "after", "expected"), MISSED)
def test_a_missed_limit_stops_with_value_and_limit(gate: Gate, after: dict[Metric, float], expected: str) -> None:
    with pytest.raises(errors.GateMissed) as caught:
        gates.check([gate], after)
    assert str(caught.value) == (
        f"{expected}; nothing was published: improve the data or training, or change evaluation.gates"
    )


def test_all_missed_gates_are_told_at_once() -> None:
    wanted = [Gate(metric=Metric.LOSS, max=1.0), Gate(metric=Metric.EXACT_MATCH, min=0.5)]
    with pytest.raises(errors.GateMissed, match=r"loss is 2 .*; exactMatch is 0 "):
        gates.check(wanted, {Metric.LOSS: 2.0, Metric.EXACT_MATCH: 0.0})
