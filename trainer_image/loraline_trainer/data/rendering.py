"""Renders examples to tokens: the chat template, the loss mask, and the EOS that ends an answer.

A rendered row is what the served model will see, so the prompt is rendered as the server renders it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jinja2
from transformers import PreTrainedTokenizerBase

from loraline_trainer import errors
from loraline_trainer.data.formats import Example, Message

IGNORED = -100
"""Label of a token that does not count (torch.nn.functional.cross_entropy: ignore_index)."""

LossOn = Literal["completion", "assistant", "all"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One example as tokens.

    Attributes:
        ids: token ids, prompt first.
        labels: the same ids where the loss counts, else IGNORED; the first is always IGNORED, as nothing predicts it.
        prompt_length: tokens before the last answer.
        full_length: tokens before the row was cut to the longest length.
        ends: whether a counted token ends the answer.
    """

    where: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt_length: int
    full_length: int
    ends: bool

    @property
    def counted(self) -> int:
        """Tokens that count."""
        return sum(label != IGNORED for label in self.labels)


@dataclass(frozen=True, slots=True)
class Renderer:
    """A tokenizer with what rendering needs to know.

    Attributes:
        stop_ids: tokens that end an answer: the tokenizer's EOS and those of the model's generation config.
    """

    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    loss_on: LossOn
    max_tokens: int

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.tokenizer.chat_template)

    def row(self, example: Example) -> TokenRow:
        """The tokens of an example, cut to `max_tokens`.

        Raises:
            DatasetInvalid: the chat template refuses it, or does not render the answer after its prompt.
        """
        text, spans, prompt_end = self._conversation(example) if self.has_template else self._plain(example)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids: list[int] = list(encoded["input_ids"])
        offsets: list[tuple[int, int]] = list(encoded["offset_mapping"])
        counted = self._counted(ids, offsets, spans)
        prompt_length = sum(end <= prompt_end for _, end in offsets)
        if not any(counted[position] and ids[position] in self.stop_ids for position in range(prompt_length, len(ids))):
            while len(ids) > prompt_length and not text[slice(*offsets[len(ids) - 1])].strip():
                ids.pop()  # a template's last newline would stand between the answer and its end
                counted.pop()
            ids.append(int(self.tokenizer.eos_token_id))
            counted.append(True)
        return self._cut(example, ids, counted, prompt_length)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of turns that the assistant is to answer."""
        if self.has_template:
            text = self._rendered(messages, for_answer=True, where="the prompt")
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        text = self._opening() + "".join(turn["content"] for turn in messages)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _cut(self, example: Example, ids: list[int], counted: list[bool], prompt_length: int) -> TokenRow:
        full_length = len(ids)
        ids = ids[: self.max_tokens]
        labels = [token if counts else IGNORED for token, counts in zip(ids, counted, strict=False)]
        labels[0] = IGNORED
        ends = any(label != IGNORED and label in self.stop_ids for label in labels[min(prompt_length, len(labels)) :])
        return TokenRow(example.where, tuple(ids), tuple(labels), prompt_length, full_length, ends)

    def _counted(self, ids: list[int], offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> list[bool]:
        """Which tokens count: those that end inside an answer; after the token that ends an answer, none."""
        if self.loss_on == "all":
            return [True] * len(ids)
        counted = [False] * len(ids)
        for begin, end in spans:
            for position, (_, token_end) in enumerate(offsets):
                if begin < token_end <= end:
                    counted[position] = True
                    if ids[position] in self.stop_ids:
                        break
        return counted

    def _conversation(self, example: Example) -> tuple[str, list[tuple[int, int]], int]:
        """The text of a conversation, the places of the answers that count, and where the last answer begins."""
        messages = example.messages
        text = self._rendered(messages, for_answer=False, where=example.where)
        spans = []
        for number, turn in enumerate(messages):
            is_last = number == len(messages) - 1
            if turn["role"] == "assistant" and (is_last or self.loss_on == "assistant"):
                if not is_last and not turn["content"].strip():
                    raise errors.DatasetInvalid(
                        f"{example.where}: turn {number + 1} is an assistant's turn without text, and dataset.lossOn "
                        f"{self.loss_on} would train it; fill it in, remove it, or set dataset.lossOn to completion"
                    )
                before = self._rendered(messages[:number], for_answer=True, where=example.where)
                through = (
                    text if is_last else self._rendered(messages[: number + 1], for_answer=False, where=example.where)
                )
                if not text.startswith(before) or not text.startswith(through):
                    raise errors.DatasetInvalid(
                        f"{example.where}: the chat template renders turn {number + 1} otherwise when more turns "
                        f"follow, so its answer cannot be told from its prompt; "
                        + ("end the example before it" if is_last else "set dataset.lossOn to completion")
                    )
                spans.append((len(before), len(through)))
        return text, spans, spans[-1][0]

    def _plain(self, example: Example) -> tuple[str, list[tuple[int, int]], int]:
        prompt = self._opening() + "".join(turn["content"] for turn in example.messages[:-1])
        text = prompt + example.completion
        return text, [(len(prompt), len(text))], len(prompt)

    def _opening(self) -> str:
        """The BOS token's text, for tokenizers that put one before plain text."""
        tokenizer = self.tokenizer
        begins = list(tokenizer("")["input_ids"])
        has_bos = tokenizer.bos_token_id is not None and begins[:1] == [tokenizer.bos_token_id]
        return str(tokenizer.bos_token) if has_bos else ""

    def _rendered(self, messages: Sequence[Message], *, for_answer: bool, where: str) -> str:
        try:
            text: Any = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=for_answer
            )
        except (jinja2.TemplateError, ValueError, TypeError, KeyError) as error:
            raise errors.DatasetInvalid(
                f"{where}: the chat template refuses the turns {', '.join(turn['role'] for turn in messages)}: "
                f"{error}; change the example"
            ) from error
        return str(text)
