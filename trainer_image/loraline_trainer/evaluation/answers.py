"""Greedy answers of a model, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, and the most tokens that its answer may have."""

    prompt: Sequence[int]
    limit: int


def to_questions(loaded: Loaded, questions: Sequence[Question], max_new_tokens: int) -> list[Asked]:
    """Held-out questions, none to be answered at much more length than the longest expected answer."""
    lengths = [len(loaded.tokenizer(question.expected)["input_ids"]) for question in questions]
    limit = min(max_new_tokens, max(lengths, default=0) + SPARE_TOKENS)
    return [Asked(question.prompt, limit) for question in questions]


def greedy(model: Any, loaded: Loaded, asked: Sequence[Asked], stop_ids: frozenset[int]) -> list[str]:
    """The answers in the order of what was asked; what is of like limit and length is answered together."""
    was_training = model.training
    model.eval()
    order = sorted(range(len(asked)), key=lambda number: (asked[number].limit, len(asked[number].prompt)))
    answers = [""] * len(asked)
    for numbers in batches(order, [len(one.prompt) + one.limit for one in asked]):
        for number, answer in zip(numbers, _batch(model, loaded, [asked[n] for n in numbers], stop_ids), strict=True):
            answers[number] = answer
    model.train(was_training)
    return answers


def batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of prompts in batches that keep both bounds; a prompt longer than the bound is alone.

    Args:
        order: numbers of prompts.
        lengths: of each prompt with its answer.
    """
    batch: list[int] = []
    for number in order:
        longest = max(lengths[other] for other in (*batch, number))
        if batch and (len(batch) == BATCH_PROMPTS or (len(batch) + 1) * longest > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class _OwnLimits(transformers.StoppingCriteria):
    """Ends each answer at its own limit, though longer ones of its batch go on."""

    def __init__(self, prompt_tokens: int, limits: torch.Tensor) -> None:
        self._ends = prompt_tokens + limits  # [prompts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """Which answers are at their end. [prompts]"""
        return input_ids.shape[1] >= self._ends


def _batch(model: Any, loaded: Loaded, asked: Sequence[Asked], stop_ids: frozenset[int]) -> list[str]:
    longest = max(len(one.prompt) for one in asked)
    # [prompts, longest], filled up at the left, so that all answers begin at the same place
    ids = torch.tensor([[loaded.pad_id] * (longest - len(one.prompt)) + list(one.prompt) for one in asked])
    mask = torch.tensor([[0] * (longest - len(one.prompt)) + [1] * len(one.prompt) for one in asked])
    limits = torch.tensor([one.limit for one in asked], device=loaded.device)
    config = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=max(one.limit for one in asked),
        eos_token_id=sorted(stop_ids),
        pad_token_id=loaded.pad_id,
        use_cache=True,
    )
    with torch.no_grad(), loaded.computing():
        out = model.generate(
            input_ids=ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            generation_config=config,
            stopping_criteria=[_OwnLimits(longest, limits)],
        )
    return [str(text) for text in loaded.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]
