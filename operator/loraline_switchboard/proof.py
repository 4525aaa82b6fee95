"""Decides whether the engine's greedy answers prove that an adapter is served.

Pure. A version is proved when its answer differs from the base model's and every number in it is finite.
"""

from __future__ import annotations

import math

from loraline_api.probe import ProbeAnswer

PROMPT = "The quick brown fox"
"""Short: with its answer it fits the smallest spec.server.maxModelLen."""

MAX_TOKENS = 8

MIN_DIFFERENCE = 1e-4
"""Least difference of a log-probability that counts: an adapter without effect gives exactly 0 on a CPU, and the
smallest trained one that was seen gives 1e-2."""


def why_not_proved(adapter: ProbeAnswer, base: ProbeAnswer) -> str | None:
    """What the answer lacks to prove the adapter, or None when it is proved."""
    if not is_finite(adapter):
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


def is_finite(answer: ProbeAnswer) -> bool:
    """Whether it has tokens, and numbers only: a vLLM whose memory is spoiled gives none."""
    return bool(answer.token_ids) and all(math.isfinite(value) for value in answer.logprobs)
