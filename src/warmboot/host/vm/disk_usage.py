"""What is used of a VM's writable disk, on the host and as its guest sees it."""

from __future__ import annotations

import asyncio

from warmboot.host.vm.live_vm import LiveVm
from warmboot.host.vm.vm_files import kept_disk
from warmboot.model.errors import GuestError, HostError
from warmboot.model.usage import DiskUsage
from warmboot.model.vm import VmRecord
from warmboot.system.disks import allocated_bytes


async def disk_usage(record: VmRecord, machine: LiveVm | None) -> DiskUsage:
    """The use of a VM's disk; of a VM that does not run or answer, only what it takes on
    the host.
    """
    stored_bytes = await asyncio.to_thread(allocated_bytes, kept_disk(record.spec).path)
    if machine is None or not machine.runs.is_set():
        return DiskUsage(stored_bytes)
    try:
        return DiskUsage(stored_bytes, *await machine.while_alive(machine.link.disk()))
    except (GuestError, HostError):
        return DiskUsage(stored_bytes)
