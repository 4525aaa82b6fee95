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
from trainer.builders import recipe

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


def test_an_empty_turn_of_the_assistant_is_refused_where_it_would_be_trained(tokenizer: Any) -> None:
    hollow = Example("line 1", (*TALK.messages[:2], {"role": "assistant", "content": ""}, *TALK.messages[3:]), True)
    assert renderer(tokenizer).row(hollow).ends
    with pytest.raises(errors.DatasetInvalid, match="line 1: turn 3 is an assistant's turn without text"):
        renderer(tokenizer, "assistant").row(hollow)


def test_the_expected_answer_is_what_its_row_teaches(tokenizer: Any) -> None:
    """A template may add to an answer."""
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content'] + eos", "'(thought)' + message['content'] + eos"
    )
    (question,) = preparation.to_questions(renderer(tokenizer), [SUM], [renderer(tokenizer).row(SUM)])
    assert (question.asked, question.expected) == ("2+2=", "(thought)4")


def test_without_a_template_the_expected_answer_is_the_completion(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    (question,) = preparation.to_questions(renderer(tokenizer), [SUM], [renderer(tokenizer).row(SUM)])
    assert question.expected == "4"


def test_examples_whose_answer_is_cut_are_not_asked(tokenizer: Any) -> None:
    length = len(renderer(tokenizer).row(SUM).ids)
    tight = renderer(tokenizer, max_tokens=length)
    rows = preparation.render(tight, [TALK, SUM], URI, length)
    assert [question.asked for question in preparation.to_questions(tight, [TALK, SUM], rows)] == ["2+2="]


def test_max_samples_bounds_training_and_held_out_examples_together(tokenizer: Any) -> None:
    source = {"train": {"uri": URI}, "maxSamples": 10, "evalFraction": 0.2}
    rows = [{"prompt": f"{number}+0", "completion": str(number)} for number in range(40)]
    prepared = preparation.prepare(recipe("http://s3:9000", dataset=source), renderer(tokenizer), lambda *_: rows)
    assert (len(prepared.train), len(prepared.held_out), len(prepared.questions)) == (8, 2, 2)
