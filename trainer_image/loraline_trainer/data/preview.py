"""Shows rendered examples with their loss mask, so that a wrong template or mask is seen before it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from loraline_trainer.data.rendering import IGNORED, TokenRow

BEGIN, END = "[[", "]]"
"""Around the tokens that count."""

PREVIEWED_ROWS = 3


def text(tokenizer: PreTrainedTokenizerBase, row: TokenRow) -> str:
    """The row as text, with the tokens that count in double square brackets."""
    parts = []
    for counts, ids in _runs(row):
        piece = str(tokenizer.decode(ids))
        parts.append(f"{BEGIN}{piece}{END}" if counts else piece)
    return "".join(parts)


def lines(tokenizer: PreTrainedTokenizerBase, rows: Sequence[TokenRow]) -> Iterator[str]:
    """A headline and the text for each of the first rows."""
    for row in rows[:PREVIEWED_ROWS]:
        yield f"{row.where}: {len(row.ids)} tokens, {row.counted} count (between {BEGIN} and {END})"
        yield from text(tokenizer, row).splitlines()


def _runs(row: TokenRow) -> Iterator[tuple[bool, list[int]]]:
    """Stretches of tokens that all count or all do not."""
    current: list[int] = []
    current_counts = False
    for token, label in zip(row.ids, row.labels, strict=True):
        counts = label != IGNORED
        if current and counts is not current_counts:
            yield current_counts, current
            current = []
        current_counts = counts
        current.append(token)
    if current:
        yield current_counts, current
