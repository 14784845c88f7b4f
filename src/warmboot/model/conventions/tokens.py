"""Bearer tokens: what a client can send, and so what a manager can be given."""

from __future__ import annotations


def is_token(text: str) -> bool:
    """Printable ASCII without blanks: a header carries nothing else as it was."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
