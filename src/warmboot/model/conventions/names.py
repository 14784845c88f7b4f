"""The names that users may give to containers, images, workers and checkpoints."""

from __future__ import annotations

import re
import secrets

from warmboot.model.errors import InvalidName

MAX_NAME_LENGTH = 63
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")

_ADJECTIVES = "amber brisk calm deft eager fleet glad hale keen lively merry nimble quick rapid"
_NOUNS = "badger crane falcon gecko heron ibis kite lynx marten otter puffin raven swift wren"


def check_name(name: str, what: str = "name") -> str:
    """Return ``name``, or raise ``InvalidName`` saying which rule it breaks.

    The rule is Docker's: a letter or digit, then letters, digits, ``_``, ``.``, ``-``; and 63
    characters at most, so that it is also a host name label's length.
    """
    if not name:
        raise InvalidName(f"the {what} is empty", resolution="give at least one character")
    if len(name) > MAX_NAME_LENGTH:
        raise InvalidName(
            f"the {what} is {len(name)} characters long",
            resolution=f"use at most {MAX_NAME_LENGTH}",
        )
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidName(
            f"{name!r} is not a valid {what}",
            details="allowed are letters, digits, '_', '.', '-', beginning with a letter or digit, "
            "and no '..'",
            resolution="choose another",
        )
    return name


def invent_name() -> str:
    """A name for a container whose user gave none, like ``brisk-otter-3f9a``."""
    adjective = secrets.choice(_ADJECTIVES.split())
    noun = secrets.choice(_NOUNS.split())
    return f"{adjective}-{noun}-{secrets.token_hex(2)}"


def hostname_for(name: str) -> str:
    """The host name label (RFC 1123) of a container's VM."""
    return re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")[:MAX_NAME_LENGTH] or "warmboot"
