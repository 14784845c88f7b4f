"""Makes a difference of memory: of a process that stands still, or of a file."""

from __future__ import annotations

import ctypes
import errno
import os
from array import array
from collections.abc import Sequence
from io import FileIO
from pathlib import Path

from warmboot.hypervisors.memory import difference
from warmboot.hypervisors.memory.frames import mask_of, runs_of
from warmboot.hypervisors.memory.own_pages import Mapping, Ranges, own_ranges_of_file
from warmboot.model.errors import VmGone
from warmboot.model.vm import VmHandle
from warmboot.system.disks import os_error
from warmboot.system.on_failure import on_failure

_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_vectors = (ctypes.c_void_p, ctypes.c_ulong)
_libc.process_vm_readv.argtypes = (ctypes.c_int, *_vectors, *_vectors, ctypes.c_ulong)


def write_own_pages(
    handle: VmHandle, mappings: Sequence[Mapping], memory_bytes: int, target: Path
) -> None:
    """Write the new file ``target``: what a VMM has written to the mappings of its guest's memory.

    ``VmGone``, ``DiskFull``, ``HostError``; no file is left then. Blocking.
    """
    try:
        # It is open from here on: who has the number of a process that has ended is told apart.
        memory = os.open(f"/proc/{handle.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            ranges = own_ranges_of_file(handle.pid, mappings)
            reader = _Reader(handle.pid, memory, mappings)
            difference.write(target, memory_bytes, ranges, reader.fill)
            with on_failure(lambda: target.unlink(missing_ok=True)):
                reader.check()
        finally:
            os.close(memory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            raise VmGone(f"the VMM of {handle.vm_id} ended while it was frozen") from error
        raise os_error(error) from error


class _Reader:
    """A process's memory, by offset in the file that its mappings show. ``memory``: that file in
    ``/proc``, open."""

    def __init__(self, pid: int, memory: int, mappings: Sequence[Mapping]) -> None:
        self._pid = pid
        self._memory = memory
        self._mappings = sorted(mappings, key=lambda mapping: mapping.offset)

    def fill(self, buffer: memoryview, ranges: Ranges) -> None:
        """At once: one call a range costs more than what is read, as most are a page or two."""
        remote = array("Q")
        for start, end in ranges:
            for mapping in self._mappings:
                first = max(start, mapping.offset)
                length = min(end, mapping.offset + mapping.end - mapping.start) - first
                if length > 0:
                    remote.extend((mapping.start + first - mapping.offset, length))
        local = array("Q", (ctypes.addressof(ctypes.c_char.from_buffer(buffer)), len(buffer)))
        (here, _), (there, numbers) = local.buffer_info(), remote.buffer_info()
        count = _libc.process_vm_readv(self._pid, here, 1, there, numbers // 2, 0)
        if count < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if count != len(buffer):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    def check(self) -> None:
        """It was the same process all the time, as it is there still."""
        if self._mappings and not os.pread(self._memory, 1, self._mappings[0].start):
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))


def write_pages_of(source: Path, ranges: Ranges | None, target: Path) -> None:
    """Write the new file ``target``: these pages of a file of memory, or all that are not zero.

    ``DiskFull``, ``HostError``; no file is left then. Blocking.
    """
    try:
        with source.open("rb", buffering=0) as memory:
            size = os.fstat(memory.fileno()).st_size

            def fill(buffer: memoryview, some: Ranges) -> None:
                filled = 0
                for start, end in some:
                    memory.seek(start)
                    memory.readinto(buffer[filled : filled + end - start])  # of a disk: all of it
                    filled += end - start

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
