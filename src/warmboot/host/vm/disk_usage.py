"""What is used of a VM's writable disk, on the host and as its guest sees it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from warmboot.host.vm.disk_layers import layers
from warmboot.host.vm.live_vm import LiveVm
from warmboot.host.vm.vm_files import kept_disk
from warmboot.model.errors import GuestError, HostError
from warmboot.model.runtime_snapshot import DISK_FILE
from warmboot.model.usage import DiskUsage
from warmboot.model.vm import VmRecord
from warmboot.system.disks import allocated_bytes


async def disk_usage(record: VmRecord, machine: LiveVm | None) -> DiskUsage:
    """The use of a VM's disk; of a VM that does not run or answer, only what it takes on
    the host.
    """
    stored_bytes = await asyncio.to_thread(_stored_bytes, kept_disk(record.spec).path)
    if machine is None or not machine.runs.is_set():
        return DiskUsage(stored_bytes)
    try:
        return DiskUsage(stored_bytes, *await machine.while_alive(machine.link.disk()))
    except (GuestError, HostError):
        return DiskUsage(stored_bytes)


async def frozen_disk_usage(folder: Path) -> DiskUsage:
    """What the disk of a moment takes, which is in its ``folder``."""
    return DiskUsage(await asyncio.to_thread(_stored_bytes, folder / DISK_FILE))


def _stored_bytes(disk: Path) -> int:
    """With all layers that it lies on, whoever has links to them, too."""
    found = 0
    for path in (disk, *layers(disk.parent)):
        with contextlib.suppress(FileNotFoundError):  # layers may just be merged
            found += allocated_bytes(path)
    return found
