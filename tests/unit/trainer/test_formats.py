"""Which format a row has, and what a row must look like."""

from __future__ import annotations

from typing import Any

import pytest

from loraline_api.finetune import DatasetFormat
from loraline_trainer import errors
from loraline_trainer.data import formats
from loraline_trainer.data.reading import Row

URI = "s3://data/train.jsonl"
TURNS = ({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"})

KNOWN: list[Any] = [
    pytest.param({"messages": list(TURNS)}, DatasetFormat.MESSAGES, id="messages"),
    pytest.param(
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        DatasetFormat.SHAREGPT,
        id="ShareGPT",
    ),
    pytest.param({"conversations": list(TURNS)}, DatasetFormat.SHAREGPT, id="ShareGPT with roles"),
    pytest.param({"prompt": "2+2?", "completion": "4"}, DatasetFormat.PROMPT_COMPLETION, id="prompt and completion"),
    pytest.param(
        {"prompt": [TURNS[0]], "completion": [TURNS[1]]},
        DatasetFormat.PROMPT_COMPLETION,
        id="prompt and completion as turns",
    ),
    pytest.param({"instruction": "2+2?", "output": "4"}, DatasetFormat.ALPACA, id="Alpaca without input"),
    pytest.param({"instruction": "2+2?", "input": "", "output": "4"}, DatasetFormat.ALPACA, id="Alpaca, empty input"),
]


@pytest.mark.parametrize(("fields", "kind"), KNOWN)
def test_a_known_row_becomes_the_same_example(fields: dict[str, Any], kind: DatasetFormat) -> None:
    rows = [Row("line 1", fields)]
    assert formats.detect(rows, URI) is kind
    (example,) = formats.to_examples(rows, kind, URI)
    assert example.messages == TURNS
    assert example.completion == "4"


def test_the_input_of_alpaca_follows_its_instruction() -> None:
    row = Row("line 1", {"instruction": "Add.", "input": "2+2", "output": "4", "system": "Be brief."})
    (example,) = formats.to_examples([row], DatasetFormat.ALPACA, URI)
    assert [turn["content"] for turn in example.messages] == ["Be brief.", "Add.\n\n2+2", "4"]


def test_unknown_fields_are_named_beside_the_known_ones() -> None:
    with pytest.raises(errors.DatasetInvalid) as caught:
        formats.detect([Row("line 1", {"question": "2+2?", "answer": "4"})], URI)
    assert str(caught.value) == (
        f"{URI} has the fields `question`, `answer`, which fit no known format (messages: messages; "
        "sharegpt: conversations; promptCompletion: prompt, completion; alpaca: instruction, output); rename the fields"
    )


REFUSED: list[Any] = [
    pytest.param(
        {"prompt": "a"},
        DatasetFormat.PROMPT_COMPLETION,
        "line 7 has no field `completion`, which the format promptCompletion needs (it has `prompt`)",
        id="a field is missing",
    ),
    pytest.param(
        {"messages": "hello"}, DatasetFormat.MESSAGES, "line 7 field `messages` is not a list", id="messages is a text"
    ),
    pytest.param(
        {"messages": [{"role": "bot", "content": "x"}]},
        DatasetFormat.MESSAGES,
        "line 7 field `messages` turn 1 has the role 'bot'; known roles are system, user, assistant, tool, developer",
        id="an unknown role",
    ),
    pytest.param(
        {"messages": [TURNS[0]]},
        DatasetFormat.MESSAGES,
        "line 7 has 1 turns and its last one is of role user",
        id="no answer",
    ),
    pytest.param(
        {"messages": [*TURNS, TURNS[0]]},
        DatasetFormat.MESSAGES,
        "line 7 has 3 turns and its last one is of role user",
        id="the user has the last word",
    ),
    pytest.param(
        {"messages": []},
        DatasetFormat.MESSAGES,
        "line 7 has 0 turns and its last one is of role missing",
        id="no turns",
    ),
    pytest.param(
        {"conversations": [{"from": "alien", "value": "x"}]},
        DatasetFormat.SHAREGPT,
        "turn 1 is from 'alien'",
        id="an unknown speaker",
    ),
    pytest.param(
        {"prompt": "a", "completion": {"x": 1}},
        DatasetFormat.PROMPT_COMPLETION,
        "line 7 has a dict in `completion`; it must be a string",
        id="a completion that is no text",
    ),
    pytest.param(
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, *TURNS]},
        DatasetFormat.MESSAGES,
        "line 7 field `messages` turn 2 has `tool_calls`, and tool calls cannot be trained yet; remove the field",
        id="a turn that calls a tool",
    ),
    pytest.param(
        {"messages": [TURNS[0], {**TURNS[1], "function_call": {"name": "add"}}]},
        DatasetFormat.MESSAGES,
        "line 7 field `messages` turn 2 has `function_call`",
        id="a turn that calls a function",
    ),
    pytest.param(
        {"messages": list(TURNS), "tools": [{"type": "function"}]},
        DatasetFormat.MESSAGES,
        "line 7 has `tools`",
        id="a conversation with tools",
    ),
    pytest.param(
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "functions": "[{}]"},
        DatasetFormat.SHAREGPT,
        "line 7 has `functions`",
        id="a ShareGPT conversation with functions as a text",
    ),
    pytest.param(
        {"prompt": [TURNS[0]], "completion": [TURNS[1]], "tools": [{"type": "function"}]},
        DatasetFormat.PROMPT_COMPLETION,
        "line 7 has `tools`",
        id="a prompt of turns with tools",
    ),
]


@pytest.mark.parametrize(("fields", "kind", "expected"), REFUSED)
def test_a_row_that_does_not_fit_is_refused_with_its_line(
    fields: dict[str, Any], kind: DatasetFormat, expected: str
) -> None:
    with pytest.raises(errors.DatasetInvalid) as caught:
        formats.to_examples([Row("line 7", fields)], kind, URI)
    assert expected in str(caught.value)


def test_empty_tool_fields_are_in_nobodys_way() -> None:
    answer: dict[str, Any] = {**TURNS[1], "tool_calls": None, "function_call": {}}
    row = Row("line 1", {"messages": [TURNS[0], answer], "tools": [], "functions": "[]"})
    (example,) = formats.to_examples([row], DatasetFormat.MESSAGES, URI)
    assert example.messages == TURNS
