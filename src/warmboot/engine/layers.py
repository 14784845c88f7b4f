"""What a container has changed in its own file system, as a tar.

A checkpoint holds memory, not files: a process that had a changed file open can only be restored
where that file is. Docker's overlay driver keeps the changes in a folder of their own, the deleted
ones as character devices 0/0.
"""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path


def pack_changes(upper: Path, target: Path) -> tuple[str, ...]:
    """Write the changes in ``upper`` to the tar ``target``; the deleted paths.

    Sockets are left out, as CRIU makes them itself.
    """
    deleted: list[str] = []

    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.ischr() and (member.devmajor, member.devminor) == (0, 0):
            deleted.append(f"/{member.name}")
            return None
        return member if member.isfile() or member.isdir() or member.issym() else None

    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in sorted(os.listdir(upper)):  # noqa: PTH208 (names, not paths)
            if not stat.S_ISSOCK((upper / name).lstat().st_mode):
                tar.add(upper / name, name, filter=chosen)
    return tuple(deleted)
