"""The file of a socket for clients: its owner's, of mode 0660, never wider and never deaf."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from warmboot.model.conventions.engine_front import CONTROL_SOCKET, PROCESS_FILE, USERS_FOLDER

_MODE = 0o660
BACKLOG = 1024
LOG = "front.log"
FileId = tuple[int, int]
"""Device and inode."""


def listen_at(path: Path, uid: int, gid: int) -> tuple[socket.socket, FileId]:
    """A listening socket at ``path``, in the place of what was there, and its file. ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)  # whatever our umask is: each owner goes through it to his own
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(new))
        new.chmod(0)
        if (uid, gid) != (os.geteuid(), os.getegid()):
            os.chown(new, uid, gid)
        new.chmod(_MODE)
        listener.listen(BACKLOG)
        made = _id_of(new)
        new.rename(path)
    except OSError:
        listener.close()
        new.unlink(missing_ok=True)
        raise
    return listener, made


def _id_of(path: Path) -> FileId:
    found = path.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino


def remove_own(path: Path, made: FileId) -> None:
    """Unless another front serves there by now."""
    with contextlib.suppress(OSError):
        if _id_of(path) == made:
            path.unlink()


def remove(path: Path) -> None:
    """Remove the socket's file, which need not be there."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """The run folder of a manager without engines, with what a front has in it."""
    for name in (CONTROL_SOCKET, PROCESS_FILE, LOG, f"{LOG}.1"):
        remove(folder / name)
    for empty in (folder / "engines", folder / USERS_FOLDER, folder):
        with contextlib.suppress(OSError):
            empty.rmdir()
