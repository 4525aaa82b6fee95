"""Errors of the switchboard.

    SwitchboardError
    |-- Rejected       the version can never be served here: it is not tried again
    `-- Unavailable    something around it is missing or down: tried again with back-off

Each carries a condition reason and a sentence with the value, the limit and the remedy.
"""

from loraline_api.conditions import Reason


class SwitchboardError(Exception):
    """Base of both; `reason` becomes the reason of a condition, `message` its message."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Rejected(SwitchboardError):
    """The version can never be served here."""


class Unavailable(SwitchboardError):
    """What the version needs is missing or down at the moment."""
