"""What a model measured up to, and what of it is told. Imports no model, as checkpoints hold scores too."""

from __future__ import annotations

from dataclasses import dataclass

from loraline_api.finetune import Metric
from loraline_api.outcome import MAX_SAMPLE_CHARS, MAX_SAMPLES, MetricResult, Sample
from loraline_trainer import numbers


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model measured up to.

    Attributes:
        prompts: what was asked; the recipe's prompts, or else the first held-out questions.
        answers: what it answered.
    """

    metrics: dict[Metric, float]
    prompts: tuple[str, ...]
    answers: tuple[str, ...]


def results(before: Scores, after: Scores) -> list[MetricResult]:
    """The metrics before and after training."""
    return [
        MetricResult(name=name.value, before=numbers.text(before.metrics[name]), after=numbers.text(value))
        for name, value in after.metrics.items()
    ]


def samples(before: Scores, after: Scores) -> list[Sample]:
    """The first answers before and after training, cut to what a status holds."""
    triples = list(zip(before.prompts, before.answers, after.answers, strict=True))[:MAX_SAMPLES]
    return [Sample(prompt=_cut(prompt), before=_cut(old), after=_cut(new)) for prompt, old, new in triples]


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_SAMPLE_CHARS else text[: MAX_SAMPLE_CHARS - 3] + "..."
