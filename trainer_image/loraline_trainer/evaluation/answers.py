"""Greedy answers of a model, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers

from loraline_trainer.data.preparation import Question
from loraline_trainer.model.loading import Loaded

BATCH_PROMPTS = 32
BATCH_TOKENS = 32 * 1024
"""Bound of prompts and answers together: their keys and values lie in the GPU's memory beside the model."""
SPARE_TOKENS = 8
"""Tokens beyond the longest expected answer: an answer that is longer than this cannot be the expected one."""


def exact_match(expected: Sequence[str], given: Sequence[str]) -> float:
    """Share of the answers that equal the expected ones, spaces around them aside."""
    hits = sum(one.strip() == other.strip() for one, other in zip(expected, given, strict=True))
    return hits / len(expected)


def to_questions(
    model: Any, loaded: Loaded, questions: Sequence[Question], stop_ids: frozenset[int], max_new_tokens: int
) -> list[str]:
    """The answers to held-out questions, none much longer than the longest expected one."""
    lengths = [len(loaded.tokenizer(question.expected)["input_ids"]) for question in questions]
    limit = min(max_new_tokens, max(lengths, default=0) + SPARE_TOKENS)
    return greedy(model, loaded, [question.prompt for question in questions], stop_ids, limit)


def greedy(
    model: Any, loaded: Loaded, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], max_new_tokens: int
) -> list[str]:
    """The answers in the order of the prompts; prompts of like length are answered together."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    answers = [""] * len(prompts)
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(stop_ids),
        pad_token_id=loaded.pad_id,
        use_cache=True,
    )
    for numbers in batches(order, [len(prompt) + max_new_tokens for prompt in prompts]):
        for number, answer in zip(numbers, _batch(model, loaded, [prompts[n] for n in numbers], config), strict=True):
            answers[number] = answer
    model.train(was_training)
    return answers


def batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of prompts in batches that keep both bounds; a prompt longer than the bound is alone.

    Args:
        order: numbers of prompts, shortest first.
        lengths: of each prompt with its answer.
    """
    batch: list[int] = []
    for number in order:
        if batch and (len(batch) == BATCH_PROMPTS or (len(batch) + 1) * lengths[number] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _batch(
    model: Any, loaded: Loaded, prompts: Sequence[Sequence[int]], config: transformers.GenerationConfig
) -> list[str]:
    longest = max(len(prompt) for prompt in prompts)
    # [prompts, longest], filled up at the left, so that all answers begin at the same place
    ids = torch.tensor([[config.pad_token_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad(), loaded.computing():
        out = model.generate(
            input_ids=ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            generation_config=config,
        )
    return [str(text) for text in loaded.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]
