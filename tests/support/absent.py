"""The part that stands where a test's subject takes one and does not use it."""

from __future__ import annotations

from typing import Never, cast


class _Absent:
    def __getattr__(self, name: str) -> Never:
        raise AssertionError(f"{name} of a part that was not to be used")


ABSENT: Never = cast("Never", _Absent())
"""Of every type, so that how many parts there are and what they are called is still checked."""
