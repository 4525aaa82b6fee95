"""What the demo found, as build/demo.json, and what it promises about it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_BEFORE = 0.2
MIN_AFTER = 0.9


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of one demo."""

    exact_match_before: float
    exact_match_after: float
    first_version: str
    second_version: str
    requests: int
    failed_requests: int
    mixed_answers: int
    """Answers that were not in the form of the version that they named."""
    seconds: float

    def broken_promises(self) -> list[str]:
        """The promises that these numbers break, each as a sentence."""
        checks = (
            (
                self.exact_match_before <= MAX_BEFORE,
                f"exact match before: {self.exact_match_before}, over {MAX_BEFORE}",
            ),
            (self.exact_match_after >= MIN_AFTER, f"exact match after: {self.exact_match_after}, under {MIN_AFTER}"),
            (self.first_version != self.second_version, f"both versions are {self.first_version}"),
            (self.requests > 0, "no request was made"),
            (
                self.failed_requests == 0,
                f"{self.failed_requests} of {self.requests} requests got no answer",
            ),
            (self.mixed_answers == 0, f"{self.mixed_answers} answers were not of the version that they named"),
        )
        return [sentence for holds, sentence in checks if not holds]

    def write(self, path: Path) -> None:
        """Writes the numbers as JSON with camelCase keys."""
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {_camel(key): value for key, value in asdict(self).items()}
        path.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
