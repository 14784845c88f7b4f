"""Resource usage of VMM processes and the disk, read from the kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from warmboot.model.shapes import Capacity
from warmboot.model.usage import StorageUsage, VmUsage
from warmboot.model.vm import VmHandle

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MEMORY = {
    b"Pss:": "memory",
    b"Private_Clean:": "private",
    b"Private_Dirty:": "private",
}


def of_vms(handles: Iterable[VmHandle]) -> tuple[VmUsage, ...]:
    """The usage of each VM that runs. Reading the memory walks page tables: milliseconds a VM."""
    return tuple(used for handle in handles if (used := of_vm(handle)) is not None)


def cpu_s_of(handle: VmHandle) -> float | None:
    """The processor time of a VM; ``None`` as of ``of_vm``. Some microseconds."""
    try:
        fields = _stat(Path(f"/proc/{handle.pid}"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _cpu_s(fields) if int(fields[19]) == handle.start_time_ticks else None


def of_vm(handle: VmHandle) -> VmUsage | None:
    """The usage of a VM; ``None`` if its process is gone or its pid is another process's by now."""
    folder = Path(f"/proc/{handle.pid}")
    try:
        memory = _memory(folder)
        fields = _stat(folder)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Read last: if the process is still the same one now, the memory was its own.
    if int(fields[19]) != handle.start_time_ticks:
        return None
    return VmUsage(
        vm_id=handle.vm_id,
        cpu_s=_cpu_s(fields),
        memory_bytes=memory["memory"],
        private_bytes=memory["private"],
    )


def _stat(folder: Path) -> list[bytes]:
    """The fields of proc_pid_stat(5) after the name."""
    return (folder / "stat").read_bytes().rpartition(b")")[2].split()


def _cpu_s(fields: list[bytes]) -> float:
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _memory(folder: Path) -> dict[str, int]:
    """Bytes; zeros for a zombie, and for a process of another user when we are not root."""
    found = {"memory": 0, "private": 0}
    try:
        lines = (folder / "smaps_rollup").read_bytes().splitlines()
    except PermissionError:
        return found
    for line in lines:
        name, *rest = line.split()
        if name in _MEMORY:
            found[_MEMORY[name]] += int(rest[0]) << 10
    return found


def mapped_names(handles: Iterable[VmHandle]) -> set[str]:
    """Names of the files that VMs have mapped, without their folders.

    That of a removed file ends with `` (deleted)``. Some tenths of a millisecond a VM.
    """
    names = set()
    for handle in handles:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            for line in Path(f"/proc/{handle.pid}/maps").read_bytes().splitlines():
                names.add(os.fsdecode(line.rpartition(b"/")[2]))
    return names


def of_storage(root: Path, floor_bytes: int) -> StorageUsage:
    disk = shutil.disk_usage(root)
    return StorageUsage(total_bytes=disk.total, free_bytes=disk.free, floor_bytes=floor_bytes)


def allocated_below(folder: Path) -> int:
    """Bytes on disk of the files below ``folder``."""
    return sum(s.st_blocks * 512 for s in statuses_below(folder) if not stat.S_ISDIR(s.st_mode))


def statuses_below(folder: Path) -> Iterator[os.stat_result]:
    """The statuses of all files and folders below ``folder``, which need not be there;
    they come and go.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield Path(parent, name).lstat()


def capacity() -> Capacity:
    """What there is of processors that we may run on, and of memory, used or not."""
    return Capacity(len(os.sched_getaffinity(0)), _meminfo_mib("MemTotal"))


def free_memory_mib() -> int:
    """What the kernel thinks can be had without swapping."""
    return _meminfo_mib("MemAvailable")


def _meminfo_mib(name: str) -> int:
    """A line of proc_meminfo(5)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) >> 10
    return 0
