"""Reads the routing table that the operator wrote, from the file that the kubelet keeps up to date.

The kubelet replaces a symlink, so a reader sees a whole table or the one before. Nothing is cached: the file is small.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from loraline_api.routing import RoutingTable


@dataclass(frozen=True, slots=True)
class ReadTable:
    """A table, and the digest of its text: taken from the bytes, so that a newer operator's fields count too."""

    table: RoutingTable
    digest: str


def read(path: Path) -> ReadTable:
    """The table in the mounted file.

    Raises:
        ValueError: the file is not there or holds no routing table; the one in use stays in use.
    """
    try:
        text = path.read_bytes()
        return ReadTable(RoutingTable.model_validate_json(text), hashlib.sha256(text).hexdigest()[:12])
    except OSError as error:
        raise ValueError(f"the routing table {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"the routing table {path} cannot be read: {first['msg']}") from error
