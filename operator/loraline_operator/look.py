"""How sure a look at the cluster has to be. Copies are free and late by nature; sure looks cost requests."""

from __future__ import annotations

from enum import Enum


class Depth(Enum):
    """What a pass looks at."""

    COPIES = "copies"
    """Copies of children; data by its digest, as it was known a while ago."""

    NEW = "new"
    """Copies of children, as an object that no pass has seen has none; data is read."""

    SURE = "sure"
    """Everything is read now."""
