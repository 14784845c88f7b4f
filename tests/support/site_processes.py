"""The processes of a manager and its VMs, found by the files that they name."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from pathlib import Path

from warmboot.system import procfs

_PROGRAMS = ("qemu-system-x86_64", "dnsmasq", "nsenter", "setpriv", "qemu-img")


def processes_of(folder: Path) -> list[int]:
    """VMMs, name and file servers and fronts that name a file in ``folder``, and managers whose
    storage it has."""
    path = re.escape(os.fsencode(folder)) + rb"(?![\w.-])"
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _belongs_to(entry, path)]


def _belongs_to(process: Path, path: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        command = (process / "cmdline").read_bytes()
        if command.endswith(b"\0serve\0"):
            setting = b"MANAGER_STORAGE_ROOT=" + path
            return re.search(setting, (process / "environ").read_bytes()) is not None
        if b"\0warmboot.engine_socket\0" in command or b"\0warmboot.folder_server\0" in command:
            return re.search(path, command) is not None
        program = Path(os.fsdecode(command.partition(b"\0")[0])).name
        return program in _PROGRAMS and re.search(path, command) is not None
    return False


def kill_processes_of(folder: Path) -> None:
    """SIGKILL, and wait until they are gone."""
    for pid in processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if pid in processes_of(folder):  # still the same one, now that we hold it
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], 60)
            finally:
                os.close(pidfd)


def command_of(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return " ".join(procfs.arguments(Path(f"/proc/{pid}")))[:200]
    return ""
