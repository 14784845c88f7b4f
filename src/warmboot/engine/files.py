"""Write a small file so that it is either the old one or the new one, whatever happens."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def write_atomically(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write ``text`` to a temporary file beside ``path``, sync it, rename it over ``path``.

    An existing file's owner and permissions are kept; ``mode`` is for a new one.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if path.exists():
                status = path.stat()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
                mode = status.st_mode & 0o7777
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:  # whatever it is; raised again
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def back_up(path: Path) -> Path:
    """Copy ``path`` to the first free of ``path.warmboot-backup``, ``…-2``, …; where to."""
    number = 1
    while True:
        name = f"{path.name}.warmboot-backup" + (f"-{number}" if number > 1 else "")
        target = path.with_name(name)
        if not target.exists():
            shutil.copy2(path, target)
            return target
        number += 1
