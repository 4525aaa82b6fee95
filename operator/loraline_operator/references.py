"""Which object has to be looked at when another changes: an index of references that resyncs keep free of ghosts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from loraline_operator.actions import Ref

ANY = "*"
"""Name that stands for every object of a kind in a namespace, as a selector means them."""


class References:
    """From the objects that are referred to, to those that refer."""

    def __init__(self) -> None:
        self._targets: dict[Ref, frozenset[Ref]] = {}
        self._sources: dict[Ref, set[Ref]] = {}

    def set(self, source: Ref, targets: Iterable[Ref]) -> None:
        """`source` refers to these and to nothing else."""
        new, old = frozenset(targets), self._targets.get(source, frozenset())
        for target in old - new:
            self._sources[target].discard(source)
            if not self._sources[target]:
                del self._sources[target]
        for target in new - old:
            self._sources.setdefault(target, set()).add(source)
        if new:
            self._targets[source] = new
        else:
            self._targets.pop(source, None)

    def to(self, target: Ref) -> tuple[Ref, ...]:
        """The objects that refer to this one, by its name or by a selector."""
        everything = replace(target, name=ANY)
        return tuple(sorted(self._sources.get(target, set()) | self._sources.get(everything, set())))

    def keep_only(self, sources: Collection[Ref]) -> tuple[Ref, ...]:
        """Forgets what objects that are no more refer to, and returns those objects."""
        ghosts = tuple(source for source in self._targets if source not in sources)
        for ghost in ghosts:
            self.set(ghost, ())
        return ghosts
