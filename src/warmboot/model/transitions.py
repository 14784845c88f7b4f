"""Tables of the legal transitions between states."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from warmboot.model.errors import IllegalTransition

S = TypeVar("S", bound=StrEnum)


class Transitions(Generic[S]):
    """A table of legal transitions of one kind of thing."""

    def __init__(self, what: str, table: Mapping[S, frozenset[S]]) -> None:
        self.what = what
        self.table = table

    def allows(self, old: S, new: S) -> bool:
        return new in self.table[old]

    def sources(self, new: S) -> frozenset[S]:
        """The states from which ``new`` may be entered: the WHERE of a guarded update."""
        return frozenset(state for state, targets in self.table.items() if new in targets)

    def check(self, old: S, new: S) -> S:
        """Return ``new``, or raise ``IllegalTransition``."""
        if not self.allows(old, new):
            options = ", ".join(sorted(self.table[old])) or "none: it is final"
            raise IllegalTransition(
                f"a {self.what} that is {old} cannot become {new}",
                details=f"from {old} it can become: {options}",
            )
        return new
