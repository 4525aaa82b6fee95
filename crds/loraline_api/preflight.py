"""What the check of an adapter before any serving pod sees it goes by, and what it comes to.

A serving pod describes its base model once (`BaseModelCard`); the operator keeps the description in a ConfigMap, which
the pod of a check mounts beside the adapter's S3 credentials. The verdict is that pod's termination message.
"""

from __future__ import annotations

import base64
import gzip

from pydantic import Field

from loraline_api.conditions import Reason
from loraline_api.model import StatusModel
from loraline_api.outcome import MAX_MESSAGE_CHARS

CARD_KEY = "base.json.gz"
"""Key of the description in its ConfigMap."""

CARD_PATH = "/base"
"""Where a switchboard serves it, as the text that a ConfigMap's binaryData holds."""

MAX_CARD_BYTES = 900_000
"""Longest such text; a ConfigMap holds 1 MiB. A mixture of 128 experts in 48 layers takes about 100 kB."""


class BaseModelCard(StatusModel):
    """A base model as adapters are judged against it."""

    digest: str = Field(description="Its identity, as in an adapter's manifest.")
    layers: int | None = Field(default=None, description="Its number of layers, where config.json says it.")
    shapes: dict[str, list[int]] = Field(default={}, description="Shapes of its weights by module, without `.weight`.")
    modules: list[str] = Field(default=[], description="Names of modules without such a shape.")

    def encode(self) -> str:
        """The text for a ConfigMap's binaryData: base64 of the compressed JSON."""
        text = self.model_dump_json(by_alias=True, exclude_none=True).encode()
        return base64.b64encode(gzip.compress(text, mtime=0)).decode()


def parse_card(compressed: bytes) -> BaseModelCard:
    """The card in the file that the ConfigMap becomes.

    Raises:
        ValueError: it holds none.
    """
    try:
        return BaseModelCard.model_validate_json(gzip.decompress(compressed))
    except (OSError, EOFError) as error:
        raise ValueError(f"the description of the base model cannot be read: {error}") from error


class Verdict(StatusModel):
    """What the check of an adapter came to. No reason: it passed."""

    version: str = Field(max_length=12, description="The version that was checked.")
    reason: Reason | None = Field(default=None, description="Why it is refused, or cannot be judged now.")
    message: str = Field(default="", max_length=MAX_MESSAGE_CHARS, description="The same in a sentence.")
    is_final: bool = Field(default=True, description="Whether the same bytes give the same verdict again.")

    @property
    def has_passed(self) -> bool:
        """Whether pods may load it."""
        return self.reason is None


def parse_verdict(text: str) -> Verdict | None:
    """The verdict in a termination message, or None when there is none (a kill, a crash)."""
    try:
        return Verdict.model_validate_json(text)
    except ValueError:
        return None
