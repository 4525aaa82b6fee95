"""Gates: limits that metrics must keep, or nothing is published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loraline_api.finetune import Gate, Metric
from loraline_trainer import errors, numbers


def check_measurable(gates: Sequence[Gate], has_held_out: bool) -> None:
    """Raises before anything is trained when no gate could be judged.

    Raises:
        GateMissed: there are gates and no held-out examples.
    """
    if gates and not has_held_out:
        named = ", ".join(gate.metric.value for gate in gates)
        raise errors.GateMissed(
            f"evaluation.gates limit {named}, and there are no held-out examples to measure on; set dataset.eval, or "
            f"dataset.evalFraction over 0 with more than 1 example"
        )


def check(gates: Sequence[Gate], after: Mapping[Metric, float]) -> None:
    """Raises GateMissed with all limits that are missed.

    Args:
        after: metrics measured after training.

    Raises:
        GateMissed: a metric is outside its limits, or was not measured.
    """
    missed = [text for gate in gates if (text := _missed(gate, after.get(gate.metric)))]
    if missed:
        raise errors.GateMissed(
            f"{'; '.join(missed)}; nothing was published: improve the data or training, or change evaluation.gates"
        )


def _missed(gate: Gate, value: float | None) -> str:
    """What is wrong with a metric, or nothing. A NaN keeps no limit."""
    if value is None:
        return f"{gate.metric.value} was not measured, as there are no held-out examples"
    shown = f"{gate.metric.value} is {numbers.text(value)} after training"
    if gate.min is not None and not value >= gate.min:
        return f"{shown}, and its gate asks for at least {gate.min:g}"
    if gate.max is not None and not value <= gate.max:
        return f"{shown}, and its gate asks for at most {gate.max:g}"
    return ""
