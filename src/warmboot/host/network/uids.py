"""User ids of VMMs: one range for each manager of this host, so that no two VMs share one.

A range is reserved by a file that names its owner, from a first choice that follows from the prefix
onwards. Reservations last until the host is started again, when no VM runs any more: a manager that
comes back finds its own, and one that does not is no loss among so many.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from warmboot.model.errors import NetworkError

FIRST = 1_880_000_000
"""Beyond what systemd gives to containers, below what is not a valid user everywhere."""

SIZE = 100_000
COUNT = 2_600
RESERVATIONS = Path("/run/warmboot/uids")
_SUBORDINATE = Path("/etc/subuid")


def reserve(
    prefix: str, reservations: Path = RESERVATIONS, subordinate: Path = _SUBORDINATE
) -> int:
    """The first uid of the range of the manager with this prefix. Blocks; ``NetworkError``."""
    try:
        reservations.mkdir(mode=0o755, parents=True, exist_ok=True)
        taken = _ranges(subordinate)
        first_choice = zlib.crc32(prefix.encode())
        for step in range(COUNT):
            base = FIRST + (first_choice + step) % COUNT * SIZE
            if any(start < base + SIZE and base < end for start, end in taken):
                continue
            if _owner(reservations / str(base), prefix) == prefix:
                return base
    except OSError as error:
        raise NetworkError(
            "no users for VMs could be reserved",
            details=str(error),
            resolution=f"check whether {reservations} is writable",
        ) from error
    raise NetworkError(
        "all ranges of users for VMs are taken",
        resolution=f"remove the files in {reservations} of managers that no longer exist",
    )


def _owner(path: Path, prefix: str) -> str:
    """Who has the range; ``prefix``, if nobody had it until now."""
    # Linked in whole: nobody ever reads a file that is half written.
    draft = path.with_name(f".{prefix}-{os.getpid()}")
    draft.write_text(prefix)
    try:
        os.link(draft, path)
    except FileExistsError:
        return path.read_text()
    finally:
        draft.unlink()
    return prefix


def _ranges(subordinate: Path) -> list[tuple[int, int]]:
    """What subuid(5) gives to others."""
    try:
        lines = subordinate.read_text().splitlines()
    except FileNotFoundError:
        return []
    fields = [line.split(":") for line in lines]
    return [
        (int(start), int(start) + int(count))
        for _, start, count in (f for f in fields if len(f) == 3)
        if start.isdecimal() and count.isdecimal()
    ]
