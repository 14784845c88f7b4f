"""Boot logs: console output of guests, kept as long as their containers exist.

A VM's console log lies in its folder, and goes with it when a boot fails; so it is copied first. It
is the guest's and the VMM's to write: links are not followed, and no more than its end is read.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

MOST_BYTES = 256 << 10
LAST_LINES = 8
LONGEST_LINE = 200

_CONSOLES = ("serial.log", "console.log")
"""The first has what came before the kernel had its console."""


class BootLogs:
    """Console logs of guests: ``root`` has those of VMs that are gone, ``vms`` the VMs' folders."""

    def __init__(self, root: Path, vms: Path) -> None:
        self._root = root
        self._vms = vms

    async def of_vm(self, vm_id: str) -> bytes:
        """What the VM's guest has said since it was booted or restored; of late, if it is much."""
        return await asyncio.to_thread(self._of_vm, vm_id)

    async def keep(self, container_id: UUID, vm_id: str) -> None:
        """Keep the log of a VM that is about to be removed. ``OSError``."""
        await asyncio.to_thread(self._keep, container_id, vm_id)

    async def kept(self, container_id: UUID) -> bytes:
        return await asyncio.to_thread(_end_of, self._path(container_id))

    async def forget(self, container_id: UUID) -> None:
        """Remove the log that was kept for a container. Idempotent."""
        await asyncio.to_thread(self._path(container_id).unlink, missing_ok=True)

    async def tidy(self, known: Collection[UUID]) -> None:
        """Remove those of containers that are not there any more."""
        names = {self._path(container_id).name for container_id in known}
        await asyncio.to_thread(self._tidy, names)

    def _of_vm(self, vm_id: str) -> bytes:
        found = (_end_of(self._vms / vm_id / name) for name in _CONSOLES)
        return b"".join(found)[-MOST_BYTES:]

    def _keep(self, container_id: UUID, vm_id: str) -> None:
        if text := self._of_vm(vm_id):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path(container_id).write_bytes(text)

    def _tidy(self, names: Collection[str]) -> None:
        for path in self._root.glob("*.log"):
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _path(self, container_id: UUID) -> Path:
        return self._root / f"{container_id}.log"


def last_lines(text: bytes) -> str:
    """The last lines, as they may stand in an error."""
    lines = text.decode("utf-8", "replace").split("\n")
    shown = ["".join(c for c in line if c.isprintable())[:LONGEST_LINE] for line in lines]
    return "\n".join([line for line in shown if line.strip()][-LAST_LINES:])


def _end_of(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it is not there, or no file
        return b""
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return b""
        file.seek(max(0, found.st_size - MOST_BYTES))
        return file.read(MOST_BYTES)
