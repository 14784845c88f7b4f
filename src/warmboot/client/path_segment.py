"""What a user has typed as one part of a path."""

from __future__ import annotations

from urllib.parse import quote


def segment(text: str) -> str:
    """Whatever is in it. ``.`` and ``..`` would lead elsewhere."""
    return quote(text, safe="") if text.strip(".") else text.replace(".", "%2E")
