"""Makes a difference of memory: of a process that stands still, or of a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from warmboot.hypervisors.memory import difference
from warmboot.hypervisors.memory.frames import mask_of, runs_of
from warmboot.hypervisors.memory.own_pages import Mapping, Ranges, own_ranges_of_file
from warmboot.model.errors import VmGone
from warmboot.model.vm import VmHandle
from warmboot.system.disks import os_error


def write_own_pages(
    handle: VmHandle, mappings: Sequence[Mapping], memory_bytes: int, target: Path
) -> None:
    """Write the new file ``target``: what a VMM has written to the mappings of its guest's memory.

    ``VmGone``, ``DiskFull``, ``HostError``; no file is left then. Blocking.
    """
    try:
        # It is open from here on: what is read is this process's, whoever has its number later.
        memory = os.open(f"/proc/{handle.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            ranges = own_ranges_of_file(handle.pid, mappings)
            reader = _Reader(memory, mappings)
            difference.write(target, memory_bytes, ranges, reader.fill)
        finally:
            os.close(memory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise VmGone(f"the VMM of {handle.vm_id} ended while it was frozen") from error
        raise os_error(error) from error


class _Reader:
    """A process's memory, by offset in the file that its mappings show."""

    def __init__(self, memory: int, mappings: Sequence[Mapping]) -> None:
        self._memory = memory
        self._mappings = mappings

    def fill(self, buffer: memoryview, offset: int) -> None:
        for mapping in self._mappings:
            length = mapping.end - mapping.start
            start = max(offset, mapping.offset)
            end = min(offset + len(buffer), mapping.offset + length)
            if start < end:
                part = buffer[start - offset : end - offset]
                self._read(part, mapping.start + start - mapping.offset)

    def _read(self, buffer: memoryview, address: int) -> None:
        while buffer:
            count = os.preadv(self._memory, [buffer], address)
            if not count:  # its address space is gone
                raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
            buffer, address = buffer[count:], address + count


def write_pages_of(source: Path, ranges: Ranges | None, target: Path) -> None:
    """Write the new file ``target``: these pages of a file of memory, or all that are not zero.

    ``DiskFull``, ``HostError``; no file is left then. Blocking.
    """
    try:
        with source.open("rb", buffering=0) as memory:
            size = os.fstat(memory.fileno()).st_size

            def fill(buffer: memoryview, offset: int) -> None:
                memory.seek(offset)
                memory.readinto(buffer)  # of a file of the disk: all of it

            wanted = _nonzero_ranges(memory) if ranges is None else ranges
            difference.write(target, size, wanted, fill)
    except OSError as error:
        raise os_error(error) from error


def _nonzero_ranges(memory: FileIO) -> Ranges:
    found: Ranges = []
    base = 0
    while content := memory.read(difference.PIECE_BYTES):
        found += [(base + start, base + end) for start, end in runs_of(mask_of(content))]
        base += len(content)
    return found
