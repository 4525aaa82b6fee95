"""Our own objects as they were seen last, kept as JSON text: a fifth of the memory of what json makes of it.

Like `children`, it never goes back in time and holds what this process wrote itself.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from loraline_operator.actions import Kind, Manifest, Ref


class Objects:
    """The last known state of each object of our kinds."""

    def __init__(self) -> None:
        self._texts: dict[Ref, tuple[int, str]] = {}

    def get(self, ref: Ref) -> Manifest | None:
        """The object, or None when none is known."""
        known = self._texts.get(ref)
        if known is None:
            return None
        manifest: Manifest = json.loads(known[1])
        return manifest

    def put(self, ref: Ref, manifest: Manifest) -> bool:
        """Takes a state over; False when it is no news."""
        version = int(manifest["metadata"]["resourceVersion"])
        known = self._texts.get(ref)
        if known is not None and known[0] >= version:
            return False
        metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
        self._texts[ref] = (version, json.dumps(dict(manifest) | {"metadata": metadata}, separators=(",", ":")))
        return True

    def remove(self, ref: Ref, version: int) -> None:
        """The object went at that version."""
        known = self._texts.get(ref)
        if known is not None and known[0] <= version:
            del self._texts[ref]

    def keep_only(self, kind: Kind, namespace: str | None, refs: Collection[Ref], version: int) -> tuple[Ref, ...]:
        """At that version these were all of a kind, in that namespace or in all; returns those that are forgotten."""
        ghosts = tuple(
            ref
            for ref, (known, _) in self._texts.items()
            if ref.kind is kind and namespace in (None, ref.namespace) and ref not in refs and known <= version
        )
        for ghost in ghosts:
            del self._texts[ghost]
        return ghosts

    def __contains__(self, ref: Ref) -> bool:
        return ref in self._texts

    def __len__(self) -> int:
        return len(self._texts)
