"""What the trainer says of a file that is no dataset, and that every known ending is read."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from loraline_trainer import errors
from loraline_trainer.data import reading

URI = "configmap://tickets/train.jsonl"

REFUSED = [
    pytest.param(b"", "train.jsonl", "is empty: 0 examples, at least 1 is needed", id="an empty file"),
    pytest.param(b"\n\n", "train.jsonl", "is empty: 0 examples", id="blank lines only"),
    pytest.param(
        b'{"a": 1}\n{"a": 2}\n{"a": oops}\n',
        "train.jsonl",
        'line 3 is not JSON: Expecting value in column 7, at `{"a": oops}`',
        id="the third line is not JSON",
    ),
    pytest.param(b"[1, 2]\n", "train.jsonl", "line 1 is a JSON list, `[1, 2]`", id="a line holds a list"),
    pytest.param(b'"text"\n', "train.jsonl", "line 1 is a JSON string", id="a line holds a string"),
    pytest.param(b'[{"a": 1}, 3]', "train.json", "item 2 is a JSON number, `3`", id="a JSON list holds a number"),
    pytest.param(b'[{"a": 1},\n {"a": ]', "train.json", "line 2 is not JSON", id="a JSON list breaks off"),
    pytest.param(
        b'{"a": "1"}\n{"a": ["\\ud83d"]}\n',
        "train.jsonl",
        "line 2 has \\ud83d, one half of a surrogate pair",
        id="a line holds half a character",
    ),
    pytest.param(
        b"a,b\n1,2\n3," + b"x" * (csv.field_size_limit() + 1),
        "train.csv",
        "line 3 is not CSV that can be read: field larger than field limit (131072)",
        id="a CSV field that never ends",
    ),
    pytest.param(b'{"a": "\xff"}', "train.jsonl", "is not UTF-8 at byte 7", id="bytes that are not UTF-8"),
    pytest.param(b"PAR2", "train.parquet", "is not a Parquet file", id="a Parquet file that is none"),
]


@pytest.mark.parametrize(("content", "name", "expected"), REFUSED)
def test_a_file_that_is_no_dataset_is_refused_with_its_line(
    tmp_path: Path, content: bytes, name: str, expected: str
) -> None:
    file = tmp_path / "data"
    file.write_bytes(content)
    with pytest.raises(errors.DatasetInvalid) as caught:
        reading.from_file(file, URI, name)
    assert f"{URI} {expected}" in str(caught.value)


READ = [
    pytest.param(b'{"a": "1"}\n\n{"a": "2"}\n', "x.jsonl", ["line 1", "line 3"], id="JSON Lines with a blank line"),
    pytest.param(b'{"a": "1"}\r\n{"a": "2"}', "x", ["line 1", "line 2"], id="no ending and Windows line ends"),
    pytest.param(b'\xef\xbb\xbf{"a": "1"}\n{"a": "2"}', "x.jsonl", ["line 1", "line 2"], id="a byte order mark"),
    pytest.param(b'[{"a": "1"}, {"a": "2"}]', "x.json", ["item 1", "item 2"], id="a JSON list"),
    pytest.param(b'{"a": "1"}\n{"a": "2"}', "x.json", ["line 1", "line 2"], id="JSON Lines with the ending .json"),
    pytest.param(b"a\n1\n2\n", "x.csv", ["line 2", "line 3"], id="CSV"),
]


@pytest.mark.parametrize(("content", "name", "places"), READ)
def test_rows_know_where_they_stand(tmp_path: Path, content: bytes, name: str, places: list[str]) -> None:
    file = tmp_path / "data"
    file.write_bytes(content)
    rows = reading.from_file(file, URI, name)
    assert [row.where for row in rows] == places
    assert [row.fields for row in rows] == [{"a": "1"}, {"a": "2"}]


def test_parquet_keeps_lists_of_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file = tmp_path / "data"
    pyarrow.parquet.write_table(pyarrow.table({"messages": [turns]}), file)
    assert reading.from_file(file, URI, "x.parquet") == [reading.Row("row 1", {"messages": turns})]
