"""Turns rows of the known formats into examples; the format is told by the fields when it is not named.

An example is either a conversation or a plain text with a prompt; how it becomes tokens is
`loraline_trainer.data.rendering`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loraline_api.finetune import DatasetFormat
from loraline_trainer import errors
from loraline_trainer.data.reading import Row

Message = dict[str, str]
"""A turn: `role` and `content`."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
ROLES = ("system", "user", "assistant", "tool", "developer")
TOOL_FIELDS = ("tool_calls", "function_call", "tools", "functions")
"""Fields of a conversation or a turn that a chat template would need, and that no example carries."""
EMPTY_JSON = ("", "[]", "{}", "null")

FIELDS: Mapping[DatasetFormat, tuple[str, ...]] = {
    DatasetFormat.MESSAGES: ("messages",),
    DatasetFormat.SHAREGPT: ("conversations",),
    DatasetFormat.PROMPT_COMPLETION: ("prompt", "completion"),
    DatasetFormat.ALPACA: ("instruction", "output"),
}
"""Fields that a row of each format must have, in the order in which `auto` looks for them."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: turns that end with the assistant's answer.

    Attributes:
        where: where it stands in its file, for messages.
        is_conversation: whether its file has turns; else it may also be rendered without a chat template.
    """

    where: str
    messages: tuple[Message, ...]
    is_conversation: bool

    @property
    def completion(self) -> str:
        """The last answer."""
        return self.messages[-1]["content"]


def detect(rows: Sequence[Row], uri: str) -> DatasetFormat:
    """The format whose fields the first row has.

    Raises:
        DatasetInvalid: none.
    """
    first = rows[0].fields
    for candidate, needed in FIELDS.items():
        if all(name in first for name in needed):
            return candidate
    known = "; ".join(f"{candidate.value}: {', '.join(needed)}" for candidate, needed in FIELDS.items())
    raise errors.DatasetInvalid(
        f"{uri} has the fields {_names(first)}, which fit no known format ({known}); rename the fields"
    )


def to_examples(rows: Sequence[Row], kind: DatasetFormat, uri: str) -> list[Example]:
    """The examples of the rows.

    Args:
        kind: any format but auto.

    Raises:
        DatasetInvalid: a row lacks a field or has one of another type.
    """
    return [_example(row, kind, uri) for row in rows]


def _example(row: Row, kind: DatasetFormat, uri: str) -> Example:
    where = f"{uri} {row.where}"
    for name in FIELDS[kind]:
        if name not in row.fields:
            raise errors.DatasetInvalid(
                f"{where} has no field `{name}`, which the format {kind.value} needs (it has {_names(row.fields)}); "
                f"mend the line or set dataset.format"
            )
    messages = _READERS[kind](row.fields, where)
    is_conversation = kind in (DatasetFormat.MESSAGES, DatasetFormat.SHAREGPT)
    if is_conversation or isinstance(row.fields.get("prompt"), list):
        _check_no_tools(row.fields, where)
    if len(messages) < 2 or messages[-1]["role"] != "assistant":
        last = messages[-1]["role"] if messages else "missing"
        raise errors.DatasetInvalid(
            f"{where} has {len(messages)} turns and its last one is of role {last}; an example needs at least a "
            f"prompt and ends with the assistant's answer"
        )
    return Example(row.where, tuple(messages), is_conversation)


def _messages(fields: Mapping[str, Any], where: str) -> list[Message]:
    return _turns(fields["messages"], f"{where} field `messages`")


def _turns(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise errors.DatasetInvalid(
            f"{where} is not a list of objects with `role` and `content`; write it as such a list"
        )
    turns = []
    for number, turn in enumerate(value, 1):
        role = turn.get("role")
        if role not in ROLES:
            raise errors.DatasetInvalid(
                f"{where} turn {number} has the role {role!r}; known roles are {', '.join(ROLES)}"
            )
        _check_no_tools(turn, f"{where} turn {number}")
        turns.append({"role": str(role), "content": _string(turn, "content", f"{where} turn {number}")})
    return turns


def _sharegpt(fields: Mapping[str, Any], where: str) -> list[Message]:
    value = fields["conversations"]
    where = f"{where} field `conversations`"
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise errors.DatasetInvalid(
            f"{where} is not a list of objects with `from` and `value`; write it as such a list"
        )
    if value and "from" not in value[0] and "role" in value[0]:
        return _turns(value, where)
    turns = []
    for number, turn in enumerate(value, 1):
        speaker = turn.get("from")
        if speaker not in SHAREGPT_ROLES:
            raise errors.DatasetInvalid(
                f"{where} turn {number} is from {speaker!r}; known speakers are {', '.join(SHAREGPT_ROLES)}"
            )
        _check_no_tools(turn, f"{where} turn {number}")
        turns.append(
            {"role": SHAREGPT_ROLES[str(speaker)], "content": _string(turn, "value", f"{where} turn {number}")}
        )
    return turns


def _prompt_completion(fields: Mapping[str, Any], where: str) -> list[Message]:
    prompt, completion = fields["prompt"], fields["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        return [*_turns(prompt, f"{where} field `prompt`"), *_turns(completion, f"{where} field `completion`")]
    return [
        {"role": "user", "content": _string(fields, "prompt", where)},
        {"role": "assistant", "content": _string(fields, "completion", where)},
    ]


def _alpaca(fields: Mapping[str, Any], where: str) -> list[Message]:
    instruction = _string(fields, "instruction", where)
    extra = _string(fields, "input", where) if fields.get("input") else ""
    turns = [
        {"role": "user", "content": f"{instruction}\n\n{extra}" if extra else instruction},
        {"role": "assistant", "content": _string(fields, "output", where)},
    ]
    if fields.get("system"):
        turns.insert(0, {"role": "system", "content": _string(fields, "system", where)})
    return turns


_READERS: Mapping[DatasetFormat, Callable[[Mapping[str, Any], str], list[Message]]] = {
    DatasetFormat.MESSAGES: _messages,
    DatasetFormat.SHAREGPT: _sharegpt,
    DatasetFormat.PROMPT_COMPLETION: _prompt_completion,
    DatasetFormat.ALPACA: _alpaca,
}


def _check_no_tools(fields: Mapping[str, Any], where: str) -> None:
    for name in TOOL_FIELDS:
        value = fields.get(name)
        if value and not (isinstance(value, str) and value.strip() in EMPTY_JSON):
            raise errors.DatasetInvalid(
                f"{where} has `{name}`, and tool calls cannot be trained yet; remove the field, or the whole example"
            )


def _string(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise errors.DatasetInvalid(f"{where} has a {type(value).__name__} in `{name}`; it must be a string")
    return value


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in fields) or "none"
