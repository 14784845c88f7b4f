"""Parts of lists: what comes after a position, and where the part after that begins.

A position is a thing's time and id, not a number: what is added or removed meanwhile moves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a thing in a list that is in the order of creation."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request for ``limit`` things at most (``None``: all) ``after`` a position
    (``None``: the first), of those that may have ``name_part`` in their name.
    """

    limit: int | None = None
    after: Position | None = None
    name_part: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """``last`` is the position of the last thing if there may be more, else ``None``."""

    things: tuple[T, ...]
    last: Position | None = None
