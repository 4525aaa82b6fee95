"""Which tokens of a micro-batch count, worked out on the CPU: the GPU is never asked."""

from __future__ import annotations

from collections.abc import Sequence

IGNORED = -100
"""The label of a token that does not count."""


def counted(labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where the counted tokens of a row are predicted, which is one place before they stand, and what they are.

    Args:
        labels: of documents end to end; the first label of each is `IGNORED`.
    """
    places = [place for place, label in enumerate(labels) if label != IGNORED]
    return [place - 1 for place in places], [labels[place] for place in places]
