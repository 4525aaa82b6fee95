"""Our own objects as they were seen last, kept as JSON text: a fifth of the memory of what json makes of it.

Like `children`, it never goes back in time and holds what this process wrote itself.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from pydantic_core import from_json, to_json

from loraline_operator.actions import Kind, Manifest, Ref


def version_of(manifest: Manifest) -> int:
    """The resource version as a number: larger is newer (Kubernetes 1.35: comparable resource versions)."""
    return int(manifest["metadata"]["resourceVersion"])


class Known(NamedTuple):
    """What is known of an object."""

    version: int
    text: bytes
    phase: str


class Objects:
    """The last known state of each object of our kinds."""

    def __init__(self) -> None:
        self._known: dict[Ref, Known] = {}

    def get(self, ref: Ref) -> Manifest | None:
        """The object, or None when none is known."""
        known = self._known.get(ref)
        if known is None:
            return None
        manifest: Manifest = from_json(known.text)
        return manifest

    def put(self, ref: Ref, manifest: Manifest) -> bool:
        """Takes a state over; False when it is no news."""
        version = version_of(manifest)
        known = self._known.get(ref)
        if known is not None and known.version >= version:
            return False
        metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
        phase = (manifest.get("status") or {}).get("phase", "Pending")
        self._known[ref] = Known(version, to_json(dict(manifest) | {"metadata": metadata}), sys.intern(phase))
        return True

    def remove(self, ref: Ref, version: int) -> None:
        """The object went at that version."""
        known = self._known.get(ref)
        if known is not None and known.version <= version:
            del self._known[ref]

    def keep_only(self, kind: Kind, namespace: str | None, refs: Collection[Ref], version: int) -> tuple[Ref, ...]:
        """At that version these were all of a kind, in that namespace or in all; returns those that are forgotten."""
        ghosts = tuple(
            ref
            for ref, known in self._known.items()
            if ref.kind is kind and namespace in (None, ref.namespace) and ref not in refs and known.version <= version
        )
        for ghost in ghosts:
            del self._known[ghost]
        return ghosts

    def phases(self) -> Counter[str]:
        """How many fine-tunes are in each phase."""
        return Counter(known.phase for ref, known in self._known.items() if ref.kind is Kind.FINE_TUNE)

    def __contains__(self, ref: object) -> bool:
        return ref in self._known

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
