"""The answer to the greedy probe by which a version is proved, and when two answers to it agree.

Replicas on the same hardware give the same numbers on a CPU and nearly the same on a GPU, where the order of additions
differs from batch to batch. So answers are compared with a tolerance, and a token may differ where two were equally
likely.
"""

from __future__ import annotations

import hashlib
import json
import math

from pydantic import Field

from loraline_api.model import StatusModel

SAME_TOKEN_TOLERANCE = 0.5
"""Largest difference of the log-probabilities of one token. bfloat16 moves it by some hundredths."""

TIE_TOLERANCE = 0.1
"""Where the tokens part, each was the likeliest in its replica: in a tie their log-probabilities are next to equal."""


class ProbeAnswer(StatusModel):
    """A greedy completion of the probe's prompt."""

    token_ids: list[int] = Field(max_length=64, description="The tokens.")
    logprobs: list[float] = Field(max_length=64, description="The log-probability of each.")

    @property
    def fingerprint(self) -> str:
        """Hash of the token ids, first 12 hex digits, for people to compare."""
        return hashlib.sha256(json.dumps(self.token_ids).encode()).hexdigest()[:12]

    def agrees_with(self, other: ProbeAnswer) -> bool:
        """Whether both can come from the same weights."""
        for mine, yours, my_log, your_log in zip(
            self.token_ids, other.token_ids, self.logprobs, other.logprobs, strict=False
        ):
            tolerance = SAME_TOKEN_TOLERANCE if mine == yours else TIE_TOLERANCE
            if not math.isfinite(my_log) or not math.isfinite(your_log) or abs(my_log - your_log) > tolerance:
                return False
            if mine != yours:
                return True  # after a tie the texts go their own ways
        return len(self.token_ids) == len(other.token_ids)
