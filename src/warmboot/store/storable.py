"""What both databases can hold: text without NUL and halves of surrogate pairs, and JSON of it.

``stored(tp, value)`` is for what has a type, and refuses what is not of it. ``plain(value)`` is for
what has none: events' data, errors, notes of a saga. It is lenient, since an error report must not
fail over what it reports.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from warmboot.codec import CodecError, encode
from warmboot.model.errors import InvalidRequest

FreeForm = Mapping[str, Any]
"""Data without a type of its own: what an event, an error or a step has to say."""


def is_storable(text: str) -> bool:
    """Whether both databases can hold ``text``: no NUL, no half of a surrogate pair."""
    return (text.isascii() and "\0" not in text) or _is_clean(text)


def check_text(text: str) -> str:
    """Return ``text``, or raise ``InvalidRequest`` if a database cannot hold it."""
    if not is_storable(text):
        raise InvalidRequest(
            "a text holds a character that cannot be stored",
            details=f"in {text[:80]!r}: NUL characters and lone surrogates are not text",
            resolution="leave it out",
        )
    return text


def stored(tp: Any, value: Any) -> str:
    """``value`` as JSON. ``CodecError`` if it is no ``tp``; ``InvalidRequest`` on bad text."""
    if tp == FreeForm:
        value = plain(value)
    try:
        text = encode(tp, value)
    except CodecError:
        _check_texts(value)
        raise
    if r"\u0000" in text:
        _check_texts(value)
    return text


def plain(value: Any) -> Any:
    """Untyped ``value`` as JSON data; what is no JSON is written as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return value if is_storable(value) else _mended(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_mended(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return _mended(str(value))


def _check_texts(value: Any) -> None:
    for text in _texts(value):
        check_text(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _texts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for pair in value.items():
            yield from _texts(pair)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _texts(item)


def _is_clean(text: str) -> bool:
    return not any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text)


def _mended(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
