"""Finds VMM processes and VM folders that a killed manager has left behind.

A VMM names its VM's folder on its command line and leads a session of its own. That is how one is
found whose handle was not stored yet when the manager died; a user's ``tail -f`` of a log in that
folder belongs to the session of a terminal, and is left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import shutil
import signal
from collections.abc import Callable, Collection
from pathlib import Path

_KILL_TIMEOUT_S = 10.0


async def remove(vms_root: Path, known: Collection[str]) -> None:
    """Kill and remove every VM below ``vms_root`` that is not known."""
    for folder in await asyncio.to_thread(lambda: sorted(vms_root.glob("*"))):
        if folder.name not in known:
            await kill_users_of(folder)
            await asyncio.to_thread(shutil.rmtree, folder, True)


async def kill_users_of(folder: Path) -> None:
    """SIGKILL every VMM that names ``folder`` on its command line, and wait for its end."""
    await asyncio.to_thread(_kill_users_of, folder)


def users_of(folder: Path) -> list[int]:
    """The pids of session leaders that name ``folder`` or a file in it on their command line."""
    names_it = _names(folder)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (pid := int(entry.name)) != os.getpid():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if names_it((entry / "cmdline").read_bytes()) and os.getsid(pid) == pid:
                    found.append(pid)
    return found


def _names(folder: Path) -> Callable[[bytes], object]:
    """Whether a command line names ``folder`` itself or something in it, and no longer name."""
    return re.compile(re.escape(os.fsencode(folder)) + rb"(?![\w.-])").search


def _kill_users_of(folder: Path) -> None:
    for pid in users_of(folder):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # Asked again with the pidfd in hand: the pid may have passed to another process.
            if _names(folder)(Path(f"/proc/{pid}/cmdline").read_bytes()):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], _KILL_TIMEOUT_S)
        except (ProcessLookupError, FileNotFoundError):
            pass
        finally:
            os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
