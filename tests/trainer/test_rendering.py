"""Tokens and loss masks: what counts, what ends an answer, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from loraline_api.finetune import DatasetFormat
from loraline_trainer import errors
from loraline_trainer.data import preparation, preview
from loraline_trainer.data.formats import Example
from loraline_trainer.data.rendering import LossOn, Renderer

URI = "configmap://sums/train.jsonl"
TALK = Example(
    "line 1",
    (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "how are you"},
        {"role": "assistant", "content": "fine"},
    ),
    is_conversation=True,
)
SUM = Example(
    "line 2",
    ({"role": "user", "content": "2+2="}, {"role": "assistant", "content": "4"}),
    is_conversation=False,
)


@pytest.fixture
def tokenizer(base: Path) -> Any:
    """The tiny model's tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(base)


def renderer(tokenizer: Any, loss_on: LossOn = "completion", max_tokens: int = 512) -> Renderer:
    return Renderer(tokenizer, frozenset([tokenizer.eos_token_id]), loss_on, max_tokens)


COUNTED = [
    pytest.param(
        "completion",
        "system: be brief\nuser: hello\nassistant: hi</s>\nuser: how are you\nassistant: [[fine</s>]]\n",
        id="the last answer and its end",
    ),
    pytest.param(
        "assistant",
        "system: be brief\nuser: hello\nassistant: [[hi</s>]]\nuser: how are you\nassistant: [[fine</s>]]\n",
        id="every answer and its end",
    ),
    pytest.param(
        "all",
        "sys[[tem: be brief\nuser: hello\nassistant: hi</s>\nuser: how are you\nassistant: fine</s>\n]]",
        id="all but the first token, which nothing predicts",
    ),
]


@pytest.mark.parametrize(("loss_on", "expected"), COUNTED)
def test_the_mask_covers_what_the_recipe_asks_for(tokenizer: Any, loss_on: LossOn, expected: str) -> None:
    shown = preview.text(tokenizer, renderer(tokenizer, loss_on).row(TALK))
    assert shown.replace("[[", "").replace("]]", "") == expected.replace("[[", "").replace("]]", "")
    if loss_on != "all":
        assert shown == expected
    else:
        row = renderer(tokenizer, loss_on).row(TALK)
        assert row.counted == len(row.ids) - 1


def test_a_template_that_forgets_the_end_gets_one(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    row = renderer(tokenizer).row(SUM)
    assert preview.text(tokenizer, row) == "user: 2+2=\nassistant: [[4</s>]]"
    assert row.ends


def test_without_a_template_prompt_and_completion_are_plain_text(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    plain = renderer(tokenizer)
    row = plain.row(SUM)
    assert preview.text(tokenizer, row) == "2+2=[[4</s>]]"
    assert list(row.ids[: row.prompt_length]) == plain.prompt(SUM.messages[:-1])


def test_the_prompt_of_a_question_is_the_beginning_of_its_row(tokenizer: Any) -> None:
    """Else the model would be asked otherwise than it was trained."""
    row = renderer(tokenizer).row(TALK)
    assert list(row.ids[: row.prompt_length]) == renderer(tokenizer).prompt(TALK.messages[:-1])


def test_conversations_without_a_template_are_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    with pytest.raises(errors.DatasetInvalid, match="the base model has no chat template"):
        preparation.check_template(renderer(tokenizer), DatasetFormat.MESSAGES, [TALK])


def test_a_template_that_refuses_a_role_is_told_with_the_line(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(errors.DatasetInvalid, match=r"line 1: the chat template refuses the turns .*: no system role"):
        renderer(tokenizer).row(TALK)


def test_examples_cut_before_their_answer_are_refused_with_their_lengths(tokenizer: Any) -> None:
    length = len(renderer(tokenizer).row(TALK).ids)
    with pytest.raises(errors.DatasetInvalid) as caught:
        preparation.render(renderer(tokenizer, max_tokens=8), [TALK], URI, 8)
    assert str(caught.value) == (
        f"{URI}: no example has a token to learn: all 1 are cut before their answer at training.maxSeqLength 8 "
        f"(their lengths: {length} to {length}); raise it to {length}"
    )


def test_examples_that_lose_their_end_are_refused(tokenizer: Any) -> None:
    row = renderer(tokenizer).row(TALK)
    short = row.prompt_length + 1
    with pytest.raises(errors.DatasetInvalid, match="no example keeps the end of its answer"):
        preparation.render(renderer(tokenizer, max_tokens=short), [TALK], URI, short)


def test_a_tokenizer_without_an_end_is_refused(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(errors.BaseModelInvalid, match="the tokenizer of org/name has no EOS token"):
        preparation.stop_ids(tokenizer, None, "org/name")


def test_the_held_out_split_depends_on_the_seed_alone() -> None:
    examples = [Example(f"line {number}", SUM.messages, False) for number in range(20)]
    train, held_out = preparation.split(examples, 0.1, seed=42)
    assert preparation.split(examples, 0.1, seed=42) == (train, held_out)
    assert preparation.split(examples, 0.1, seed=43)[1] != held_out
    assert (len(train), len(held_out)) == (18, 2)
    assert preparation.split(examples, 0.0, seed=42) == (examples, [])
