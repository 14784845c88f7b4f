"""Notices that a program's file was replaced, for example by a package upgrade."""

from __future__ import annotations

from pathlib import Path

from warmboot.system.programs import look_up

Stamp = tuple[str, int, int, int]


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
