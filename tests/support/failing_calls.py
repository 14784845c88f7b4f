"""Calls of the system that fail in turn, as on a full disk, or of which one is a process's last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Killed(BaseException):
    """The process is no more: no handler of ours runs."""


@contextmanager
def failing(
    places: Iterable[tuple[object, str]],
    number: int,
    error: BaseException,
    *,
    after: bool = False,
    for_good: bool = False,
) -> Iterator[list[str]]:
    """The ``number``-th call at these places fails, before or ``after`` it had its effect; the
    names of all calls. ``for_good``: every later one fails, too, as nobody is there.
    """
    calls: list[str] = []
    patch = pytest.MonkeyPatch()

    def wrap(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            fails = len(calls) == number or (for_good and len(calls) > number)
            result = None if fails and not after else real(*args, **kwargs)
            if fails:
                raise error
            return result

        patch.setattr(owner, name, call)

    try:
        for owner, name in places:
            wrap(owner, name)
        yield calls
    finally:
        patch.undo()
