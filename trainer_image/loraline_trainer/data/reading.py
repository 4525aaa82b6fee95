"""Reads the rows of a dataset file: JSON Lines, JSON, CSV or Parquet, told by its ending.

What the rows mean is `loraline_trainer.data.formats`' matter.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraline_trainer import errors

SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dataset.

    Attributes:
        where: where it stands, for messages, as in `line 3`.
    """

    where: str
    fields: dict[str, Any]


def from_file(path: Path, uri: str, ending_of: str) -> list[Row]:
    """The rows of a file.

    Args:
        uri: what the user calls it.
        ending_of: name whose ending tells the format (a ConfigMap's key; a file here may be called otherwise).

    Raises:
        DatasetInvalid: it is not of its format, or has no rows.
    """
    ending = Path(ending_of).suffix.lower()
    if ending == ".parquet":
        rows = _parquet(path, uri)
    else:
        text = _text(path, uri)
        if ending == ".csv":
            rows = _csv(text, uri)
        elif ending == ".json" and text.lstrip().startswith("["):
            rows = _json_array(text, uri)
        else:
            rows = _json_lines(text, uri)
    return not_empty(rows, uri)


def from_hub(rows: Iterable[dict[str, Any]], uri: str) -> list[Row]:
    """The rows that the Hub gave."""
    return not_empty([Row(f"row {number}", fields) for number, fields in enumerate(rows, 1)], uri)


def not_empty(rows: list[Row], uri: str) -> list[Row]:
    """The rows, when there are any.

    Raises:
        DatasetInvalid: there are none.
    """
    if not rows:
        raise errors.DatasetInvalid(f"{uri} is empty: 0 examples, at least 1 is needed; put examples into it")
    return rows


def _text(path: Path, uri: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise errors.DatasetInvalid(
            f"{uri} is not UTF-8 at byte {error.start}; convert it to UTF-8, or give a Parquet file the ending .parquet"
        ) from error


def _json_lines(text: str, uri: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise errors.DatasetInvalid(
                f"{uri} line {number} is not JSON: {_reason(error)}, at `{_shown(line)}`; write one JSON object a line"
            ) from error
        rows.append(Row(f"line {number}", _object(value, f"{uri} line {number}")))
    return rows


def _json_array(text: str, uri: str) -> list[Row]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise errors.DatasetInvalid(
            f"{uri} line {error.lineno} is not JSON: {_reason(error)}; write a list of objects, or one object a line"
        ) from error
    return [Row(f"item {number}", _object(value, f"{uri} item {number}")) for number, value in enumerate(values, 1)]


def _csv(text: str, uri: str) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [Row(f"line {reader.line_num}", dict(fields)) for fields in reader]
    except csv.Error as error:
        raise errors.DatasetInvalid(
            f"{uri} line {reader.reader.line_num} is not CSV that can be read: {error} (a field holds at most "
            f"{csv.field_size_limit()} characters); close its quotes, or write JSON Lines"
        ) from error


def _parquet(path: Path, uri: str) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise errors.DatasetInvalid(f"{uri} is not a Parquet file: {error}; upload it again") from error
    return [Row(f"row {number}", fields) for number, fields in enumerate(table.to_pylist(), 1)]


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise errors.DatasetInvalid(
            f"{where} is a JSON {_kind(value)}, `{_shown(json.dumps(value))}`; "
            f"each example must be an object with named fields"
        )
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise errors.DatasetInvalid(
            f"{where} has \\u{ord(error.object[error.start]):04x}, one half of a surrogate pair, which is no "
            f"character; write both halves or remove it"
        ) from error
    return value


def _kind(value: Any) -> str:
    return {list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _reason(error: ValueError) -> str:
    return f"{error.msg} in column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _shown(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
