"""Activity of a container's processes: their CPU time, the ports they listen on, connections.

Read from ``/proc`` of the engine's machine, which warmboot shares: asking the engine for it costs a
second and a round through the control groups.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from warmboot.criu.continuity import descendants
from warmboot.model.worker import ListenAddress
from warmboot.system import procfs

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_USED = slice(11, 15)  # proc(5) fields 14 to 17, counted after the name: own and children's time
_ESTABLISHED, _LISTEN = "01", "0A"


def cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """CPU time of ``pid``, of all below it and of those of them that have ended, in seconds."""
    ticks = 0
    for one in (pid, *descendants(pid, proc)):
        try:
            fields = procfs.stat_fields(proc / str(one))
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(int(field) for field in fields[_USED])
    return ticks / _TICKS_PER_S


def listening(pid: int, proc: Path = Path("/proc")) -> tuple[ListenAddress, ...]:
    """The addresses at which ``pid`` and all processes below it wait for TCP connections."""
    found = _tcp(pid, _LISTEN, proc)
    return tuple(ListenAddress(host, port) for host, port in sorted(found))


def has_connection(pid: int, ports: Collection[int], proc: Path = Path("/proc")) -> bool:
    """Whether ``pid`` or one below it has an open TCP connection by one of its own ``ports``."""
    return any(port in ports for _, port in _tcp(pid, _ESTABLISHED, proc))


def _tcp(pid: int, state: str, proc: Path) -> set[tuple[str, int]]:
    """The own ends of TCP sockets of ``pid`` and all below it that are in that state."""
    inodes = {inode for one in (pid, *descendants(pid, proc)) for inode in _sockets(one, proc)}
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = procfs.lines(proc / str(pid) / "net" / table)[1:]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            words = line.split()
            if words[3] == state and words[9] in inodes:
                host, _, port = words[1].partition(":")
                found.add((_address(host), int(port, 16)))
    return found


def _sockets(pid: int, proc: Path) -> Iterator[str]:
    """The inodes of a process's sockets."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for _, path in procfs.open_files(proc / str(pid)):
            if path.startswith("socket:["):
                yield path[len("socket:[") : -1]


def _address(text: str) -> str:
    """The kernel writes an address as 32-bit words of the machine's byte order."""
    raw = bytes.fromhex(text)
    words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
    return str(ipaddress.ip_address(b"".join(words)))
