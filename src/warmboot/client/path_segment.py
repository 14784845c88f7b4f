"""What a user has typed as one part of a path."""

from __future__ import annotations

from urllib.parse import quote

from warmboot.model.conventions.names import check_name
from warmboot.model.errors import InvalidName, NotFound

_SHOWN = 64


def segment(reference: str, what: str) -> str:
    """The name or id of a ``what``. ``NotFound`` for what is none: it would lead elsewhere."""
    reference.encode()  # UnicodeEncodeError
    try:
        return quote(check_name(reference), safe="")
    except InvalidName as error:
        shown = f"{reference[:_SHOWN]}…" if len(reference) > _SHOWN else reference
        raise NotFound(
            f"there is no {what} {shown!r}",
            details="names and ids have 1 to 63 letters, digits, '_', '.' and '-', with a letter "
            "or digit first, and no '..'",
        ) from error
