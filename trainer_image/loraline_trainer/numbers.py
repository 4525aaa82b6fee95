"""Numbers as people and status fields get them: short texts with four significant digits."""

from __future__ import annotations


def text(value: float) -> str:
    """Four significant digits, as in 0.0123, 2.598 or 1e-05."""
    return f"{value:.4g}"


def seconds(value: float) -> str:
    """A duration, as in 45s, 3m20s or 2h05m."""
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """A number of bytes, as in 19.6 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
