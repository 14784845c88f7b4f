"""Ports and ranges of ports, as Docker's requests and its command line write them."""

from __future__ import annotations

MOST = 65_535


def port_range(text: str) -> tuple[int, int] | None:
    """``8000`` or ``8000-8010``: the first and the last; empty or 0 is any, (0, 0). ``None`` for
    what is none."""
    low, dash, high = text.partition("-")
    if not text:
        return 0, 0
    first, last = port_number(low), port_number(high if dash else low)
    if first is None or last is None:
        return None
    if (first, last) == (0, 0):
        return 0, 0
    return (first, last) if 1 <= first <= last <= MOST else None


def port_number(text: str) -> int | None:
    """A port number from decimal digits, of which thousands are refused before they are read."""
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(MOST))
    return int(text) if digits else None
