"""The documents that are trained on: the same for everybody, from a seed. Pure but for torch's generator."""

from __future__ import annotations

import math

import torch

from bench.gpu.rows import Data, Row

FIRST_TOKEN = 3
"""Ids below are the tokenizer's special tokens."""

LETTERS = "abcdefghijklmnopqrstuvwxyz "
LEARNED_TOKENS = 256
"""Tokens of the chain that can be learned: each comes 16 times in a step of 8 x 512, enough to learn in 200 steps."""

SHORT_MEDIAN = 256
SHORT_SPREAD = 0.8
"""Standard deviation of the logarithm of lengths, as instruction data has it."""


def lengths(count: int, seq: int, generator: torch.Generator) -> list[int]:
    """Lengths of short documents, cut at the longest sequence."""
    drawn = torch.exp(torch.randn(count, generator=generator) * SHORT_SPREAD + math.log(SHORT_MEDIAN))
    return [int(length) for length in drawn.clamp(16, seq)]


def texts(count: int, seq: int) -> list[str]:
    """Short documents of letters: a letter is a token, and the end token follows."""
    generator = torch.Generator().manual_seed(1)
    drawn = lengths(count, seq, generator)
    return ["".join(LETTERS[i] for i in torch.randint(0, 27, (n - 1,), generator=generator).tolist()) for n in drawn]


def ids(row: Row, count: int, vocabulary: int) -> list[list[int]]:
    """Full rows of tokens: random ones, or walks on a Markov chain that can be learned."""
    generator = torch.Generator().manual_seed(1)
    if row.data is Data.LEARNABLE:
        return _walks(count, row.seq, min(vocabulary, LEARNED_TOKENS), generator)
    return torch.randint(FIRST_TOKEN, vocabulary, (count, row.seq), generator=generator).tolist()


def _walks(count: int, seq: int, vocabulary: int, generator: torch.Generator) -> list[list[int]]:
    """Each token has four successors, the first of which comes in seven of ten cases: 1.1 nats of entropy."""
    successors = torch.randint(FIRST_TOKEN, vocabulary, (vocabulary, 4), generator=generator)
    choices = torch.multinomial(torch.tensor([0.7, 0.1, 0.1, 0.1]), count * seq, replacement=True, generator=generator)
    at = torch.randint(FIRST_TOKEN, vocabulary, (count,), generator=generator)
    columns = [at]
    for choice in choices.view(seq, count)[1:]:
        at = successors[at, choice]
        columns.append(at)
    return torch.stack(columns, dim=1).tolist()


def short_documents_needed(row: Row, steps: int) -> int:
    """Documents that fill that many steps of packed rows, with some to spare."""
    mean = SHORT_MEDIAN * math.exp(SHORT_SPREAD**2 / 2)
    return math.ceil(1.3 * steps * row.batch * row.seq / mean)
