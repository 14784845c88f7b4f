"""Ids that are somebody's, where it may be impossible to tell which."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Claimed(Collection[str]):
    """``ids``; or, with ``whatever``, any id there is: then all are in it."""

    ids: frozenset[str] = frozenset()
    whatever: bool = False

    def __contains__(self, one: object) -> bool:
        return self.whatever or one in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __bool__(self) -> bool:
        return self.whatever or bool(self.ids)

    def uuids(self) -> set[UUID]:
        """Those of ``ids`` that are UUIDs."""
        found = set()
        for one in self.ids:
            with contextlib.suppress(ValueError):
                found.add(UUID(one))
        return found

    def __or__(self, more: Iterable[str]) -> Claimed:
        whatever = isinstance(more, Claimed) and more.whatever
        return Claimed(self.ids | frozenset(more), self.whatever or whatever)


NOBODYS = Claimed()
