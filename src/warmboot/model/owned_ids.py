"""A set of ids that have an owner, or of all ids if it is unknown which ones have."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class OwnedIds(Collection[str]):
    """``ids``; or, with ``any_id``, any id there is: then all are in it."""

    ids: frozenset[str] = frozenset()
    any_id: bool = False

    def __contains__(self, one: object) -> bool:
        return self.any_id or one in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __bool__(self) -> bool:
        return self.any_id or bool(self.ids)

    def uuids(self) -> set[UUID]:
        """The ``ids`` that are UUIDs."""
        found = set()
        for one in self.ids:
            with contextlib.suppress(ValueError):
                found.add(UUID(one))
        return found

    def __or__(self, more: Iterable[str]) -> OwnedIds:
        any_id = isinstance(more, OwnedIds) and more.any_id
        return OwnedIds(self.ids | frozenset(more), self.any_id or any_id)


NO_IDS = OwnedIds()
