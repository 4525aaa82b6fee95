"""Prepares a dataset: fetched rows become checked rows of tokens, split into training and held-out ones.

Refuses what nothing can be learned from, with the numbers that show why.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraline_api import finetune, run, storage
from loraline_api.finetune import DatasetFormat
from loraline_trainer import errors
from loraline_trainer.data import formats, reading
from loraline_trainer.data.formats import Example
from loraline_trainer.data.rendering import IGNORED, Renderer, TokenRow

log = logging.getLogger(__name__)

Fetch = Callable[[str, finetune.DatasetSource], "Path | list[dict[str, Any]]"]
"""Gives the file or the rows of a part of the dataset (`train`, `eval`)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out prompt and the answer that is expected: what a model that learned its row would write."""

    asked: str
    prompt: tuple[int, ...]
    expected: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset that is ready for training.

    Attributes:
        digest: sha256 over the training examples.
    """

    format: DatasetFormat
    train: tuple[TokenRow, ...]
    held_out: tuple[TokenRow, ...]
    questions: tuple[Question, ...]
    digest: str

    @property
    def longest(self) -> int:
        """Tokens of the longest training row."""
        return max(len(row.ids) for row in self.train)

    @property
    def tokens(self) -> int:
        """Tokens of all training rows."""
        return sum(len(row.ids) for row in self.train)


def prepare(recipe: run.Run, renderer: Renderer, fetch: Fetch) -> Prepared:
    """The dataset of a run as tokens.

    Raises:
        DatasetInvalid: nothing can be learned from it, or the base model has no chat template for it.
    """
    dataset = recipe.dataset
    kind, examples = load(dataset, "train", dataset.train, fetch)
    examples = examples[: dataset.max_samples]
    if dataset.eval is not None:
        _, held_out = load(dataset, "eval", dataset.eval, fetch)
    else:
        examples, held_out = split(examples, dataset.eval_fraction, recipe.training.seed)
    check_template(renderer, kind, examples)
    train_rows = render(renderer, examples, dataset.train.uri, recipe.training.max_seq_length)
    held_out_rows: list[TokenRow] = []
    if held_out:
        uri = dataset.eval.uri if dataset.eval is not None else dataset.train.uri
        held_out_rows = render(renderer, held_out, uri, recipe.training.max_seq_length)
    questions = to_questions(renderer, held_out, held_out_rows)[: recipe.evaluation.max_samples]
    log.info("data: %d training and %d held-out examples of format %s", len(train_rows), len(held_out_rows), kind.value)
    return Prepared(kind, tuple(train_rows), tuple(held_out_rows), tuple(questions), digest(examples))


def load(
    dataset: finetune.Dataset, part: str, source: finetune.DatasetSource, fetch: Fetch
) -> tuple[DatasetFormat, list[Example]]:
    """The format and the examples of one part of the dataset; examples without an answer are left out."""
    fetched = fetch(part, source)
    if isinstance(fetched, Path):
        rows = reading.from_file(fetched, source.uri, storage.parse_uri(source.uri).path.partition("?")[0])
    else:
        rows = reading.from_hub(fetched, source.uri)
    kind = formats.detect(rows, source.uri) if dataset.format is DatasetFormat.AUTO else dataset.format
    examples = formats.to_examples(rows, kind, source.uri)
    answered = [example for example in examples if example.completion.strip()]
    if not answered:
        raise errors.DatasetInvalid(
            f"{source.uri} has only empty completions: none of its {len(examples)} examples has an answer to learn; "
            f"fill them in"
        )
    if len(answered) < len(examples):
        log.warning(
            "%s: %d of %d examples have an empty completion; left out",
            source.uri,
            len(examples) - len(answered),
            len(examples),
        )
    return kind, answered


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples, drawn by the seed; both keep the file's order.

    A fraction over 0 holds out at least one example, unless there is only one.
    """
    count = min(max(1, round(len(examples) * fraction)), len(examples) - 1) if fraction > 0 else 0
    held_out = set(random.Random(seed).sample(range(len(examples)), count))
    train = [example for position, example in enumerate(examples) if position not in held_out]
    return train, [examples[position] for position in sorted(held_out)]


def check_template(renderer: Renderer, kind: DatasetFormat, examples: Sequence[Example]) -> None:
    """Raises DatasetInvalid when the examples are conversations and there is no chat template to render them with."""
    if renderer.has_template:
        return
    if any(example.is_conversation for example in examples):
        raise errors.DatasetInvalid(
            f"the base model has no chat template, and the examples are conversations (format {kind.value}); "
            f"name an instruct model in baseModel.uri, or write prompt and completion as texts"
        )
    log.warning(
        "the base model has no chat template: prompt and completion are trained as plain text, one after the other"
    )


def render(renderer: Renderer, examples: Sequence[Example], uri: str, max_tokens: int) -> list[TokenRow]:
    """The rows of the examples; those that were cut before their answer are left out.

    Raises:
        DatasetInvalid: no row is left, or none keeps the end of its answer.
    """
    rows = [renderer.row(example) for example in examples]
    kept = [row for row in rows if row.counted]
    longest = max(row.full_length for row in rows)
    shortest = min(row.full_length for row in rows)
    if not kept:
        raise errors.DatasetInvalid(
            f"{uri}: no example has a token to learn: all {len(rows)} are cut before their answer at "
            f"training.maxSeqLength {max_tokens} (their lengths: {shortest} to {longest}); raise it to {longest}"
        )
    if not any(row.ends for row in kept):
        raise errors.DatasetInvalid(
            f"{uri}: no example keeps the end of its answer (EOS), so the model would never learn to stop: all "
            f"{len(rows)} are cut at training.maxSeqLength {max_tokens} (their lengths: {shortest} to {longest}); "
            f"raise it to {longest}"
        )
    cut = sum(row.full_length > len(row.ids) for row in rows)
    if cut:
        log.warning(
            "%s: %d of %d examples are cut at training.maxSeqLength %d (longest: %d); %d are left out, as their "
            "answer is gone",
            uri,
            cut,
            len(rows),
            max_tokens,
            longest,
            len(rows) - len(kept),
        )
    return kept


def digest(examples: Sequence[Example]) -> str:
    """sha256 over the examples as canonical JSON."""
    total = hashlib.sha256()
    for example in examples:
        total.update(json.dumps(example.messages, sort_keys=True, ensure_ascii=False).encode())
    return total.hexdigest()


def to_questions(renderer: Renderer, examples: Sequence[Example], rows: Sequence[TokenRow]) -> list[Question]:
    """The questions of the examples whose rows keep their whole answer: no other answer could be compared."""
    by_place = {example.where: example for example in examples}
    return [_question(renderer, by_place[row.where], row) for row in rows if row.ends]


def _question(renderer: Renderer, example: Example, row: TokenRow) -> Question:
    asked = next((turn["content"] for turn in reversed(example.messages[:-1]) if turn["role"] == "user"), "")
    expected = example.completion
    if renderer.has_template:  # templates may add to an answer, as Qwen3's does an empty thought
        answer = [label for label in row.labels[row.prompt_length :] if label != IGNORED]
        expected = str(renderer.tokenizer.decode(answer, skip_special_tokens=True))
    return Question(asked, tuple(renderer.prompt(example.messages[:-1])), expected)


def stop_ids(tokenizer: Any, generation_eos: int | Sequence[int] | None, base_name: str) -> frozenset[int]:
    """Tokens that end an answer.

    Args:
        generation_eos: `eos_token_id` of the model's generation config.

    Raises:
        BaseModelInvalid: the tokenizer has no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise errors.BaseModelInvalid(
            f"the tokenizer of {base_name} has no EOS token, so no answer could end; set eos_token in its "
            f"tokenizer_config.json"
        )
    others = [generation_eos] if isinstance(generation_eos, int) else list(generation_eos or [])
    return frozenset([tokenizer.eos_token_id, *others])
