"""Decides whether the engine's greedy answers prove that an adapter is served.

Pure. A version is proved when its answer differs from the base model's and every number in it is finite.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

PROMPT = "The quick brown fox"
"""Short: with its answer it fits the smallest spec.server.maxModelLen."""

MAX_TOKENS = 8

MIN_DIFFERENCE = 1e-4
"""Least difference of a log-probability that counts: an adapter without effect gives exactly 0 on a CPU, and the
smallest trained one that was seen gives 1e-2."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A greedy completion: its token ids and their log-probabilities."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def fingerprint(self) -> str:
        """Hash of the token ids, first 12 hex digits: replicas that agree have the same."""
        return hashlib.sha256(json.dumps(self.token_ids).encode()).hexdigest()[:12]


def why_not_proved(adapter: Answer, base: Answer) -> str | None:
    """What the answer lacks to prove the adapter, or None when it is proved."""
    if not adapter.token_ids or not all(math.isfinite(value) for value in adapter.logprobs):
        return "gave log-probabilities that are not numbers; train it again"
    if adapter.token_ids != base.token_ids:
        return None
    pairs = zip(adapter.logprobs, base.logprobs, strict=True)
    difference = max((abs(mine - other) for mine, other in pairs), default=0.0)
    if difference > MIN_DIFFERENCE:
        return None
    return (
        f"answers the probe exactly as the base model does (log-probabilities differ by {difference:.1e}, "
        f"{MIN_DIFFERENCE:.0e} is the least that counts), so it has no effect; train it again"
    )
