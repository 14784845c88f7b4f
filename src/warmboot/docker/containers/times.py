"""Times as Go tells them: with nanoseconds, of which zeros at the end are left out."""

from __future__ import annotations

from datetime import datetime


def moment(text: str) -> datetime:
    """To the microsecond. ``ValueError``."""
    whole, point, rest = text.partition(".")
    if not point:
        return datetime.fromisoformat(text)
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return datetime.fromisoformat(f"{whole}.{rest[:digits][:6]:0<6}{rest[digits:]}")
