"""Notices that a program's file was replaced, for example by a package upgrade."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, TypeVar

from warmboot.system.programs import look_up

T = TypeVar("T")
Stamp = tuple[str, int, int, int]


class UnlessReplaced(Generic[T]):
    """What ``look`` has found: it looks again when ``program`` is another file than it was then."""

    def __init__(self, program: str, look: Callable[[], Awaitable[T]]) -> None:
        self._program, self._look = program, look
        self._found: tuple[T, Stamp | None] | None = None
        self._looking = asyncio.Lock()

    async def __call__(self) -> T:
        async with self._looking:
            stamp = stamp_of(self._program)
            if self._found is None or stamp != self._found[1]:
                self._found = await self._look(), stamp
            return self._found[0]


def stamp_of(program: str) -> Stamp | None:
    """Path, inode, size and time of change of what ``program`` is now; ``None`` if it is not there.

    A few system calls: cheap enough to be asked before every boot.
    """
    path = look_up(program)
    if path is None:
        return None
    try:
        status = Path(path).stat()  # of the file itself, through all links
    except FileNotFoundError:
        return None
    return path, status.st_ino, status.st_size, status.st_mtime_ns
