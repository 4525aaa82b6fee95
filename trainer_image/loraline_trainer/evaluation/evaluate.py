"""Measures a model on the held-out examples and lets it answer the prompts: once before training and once after."""

from __future__ import annotations

import logging
import math
from typing import Any

from loraline_api.finetune import Evaluation, Metric
from loraline_trainer import numbers
from loraline_trainer.data.preparation import Prepared, Question
from loraline_trainer.data.rendering import Renderer
from loraline_trainer.evaluation import answers, scoring
from loraline_trainer.evaluation.answers import Asked
from loraline_trainer.evaluation.scores import Scores
from loraline_trainer.model.loading import Loaded

log = logging.getLogger(__name__)

LARGEST_EXPONENT = 700.0
"""exp of more overflows a float64."""


def evaluate(model: Any, loaded: Loaded, prepared: Prepared, renderer: Renderer, evaluation: Evaluation) -> Scores:
    """The metrics that the recipe asks for; none when there are no held-out examples."""
    metrics: dict[Metric, float] = {}
    questions: tuple[Question, ...] = ()
    if prepared.held_out:
        if Metric.LOSS in evaluation.metrics or Metric.PERPLEXITY in evaluation.metrics:
            loss = scoring.loss(model, loaded, prepared.held_out)
            metrics[Metric.LOSS] = loss
            metrics[Metric.PERPLEXITY] = math.exp(min(loss, LARGEST_EXPONENT))
        if Metric.EXACT_MATCH in evaluation.metrics:
            questions = prepared.questions
    to_questions = answers.to_questions(loaded, questions, evaluation.max_new_tokens)
    to_prompts = [
        Asked(renderer.prompt([{"role": "user", "content": prompt}]), evaluation.max_new_tokens)
        for prompt in evaluation.prompts
    ]
    # All at once: on CPUs one answer takes nearly as long as sixteen
    given = answers.greedy(model, loaded, [*to_questions, *to_prompts], renderer.stop_ids)
    if prepared.held_out and Metric.EXACT_MATCH in evaluation.metrics:
        expected = [question.expected for question in questions]
        metrics[Metric.EXACT_MATCH] = answers.exact_match(expected, given[: len(questions)])
    asked = [question.asked for question in questions]
    if evaluation.prompts:
        asked, given = list(evaluation.prompts), given[len(questions) :]
    wanted = {metric: metrics[metric] for metric in evaluation.metrics if metric in metrics}
    log.info("scores: %s", ", ".join(f"{name.value} {numbers.text(value)}" for name, value in wanted.items()) or "none")
    return Scores(wanted, tuple(asked), tuple(given))
