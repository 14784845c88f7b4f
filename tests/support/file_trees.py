"""Everything about the files below a folder, so that two such trees can be compared."""

from __future__ import annotations

import os
import stat
from pathlib import Path

WANTED = ("user.", "trusted.overlay.opaque", "security.capability", "system.posix")


def seen(root: Path) -> dict[bytes, object]:
    """All that can be told of what is below a folder, itself included."""
    found: dict[bytes, object] = {}
    inodes: dict[int, bytes] = {}
    top = os.fsencode(root)
    paths = [top]
    for place, folders, files in os.walk(top):
        paths += [place + b"/" + name for name in (*folders, *files)]
    for path in sorted(paths):
        status = os.lstat(path)
        name = path.removeprefix(top)
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = Path(os.fsdecode(path)).read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)  # noqa: PTH115 (bytes)
        first = inodes.setdefault(status.st_ino, name)
        attributes = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if key.startswith(WANTED)
        }
        mark = stat.S_ISCHR(status.st_mode) and status.st_rdev == 0  # its time says nothing
        time_ns = 0 if mark else status.st_mtime_ns
        facts = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, time_ns)
        found[name] = (facts, content, first, attributes)
    return found
