"""Which program has a port of this host: read from the kernel's tables of sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from warmboot.model.container import PortMapping
from warmboot.system import procfs

_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTENING = {"tcp": "0A", "udp": "07"}
"""States of linux/tcp_states.h; a UDP socket that is not connected has TCP_CLOSE."""


def of_port(mapping: PortMapping, proc: Path = Path("/proc")) -> str:
    """The name and pid of a program with a socket at this port; empty if none is found. Blocks."""
    inodes = {f"socket:[{inode}]" for inode in _inodes(mapping, proc)}
    if not inodes:
        return ""
    for folder in proc.iterdir():
        if folder.name.isdigit() and _has_one(folder, inodes):
            name = _name(folder)
            return f"{name} (process {folder.name})" if name else f"process {folder.name}"
    return ""


def _inodes(mapping: PortMapping, proc: Path) -> Iterator[str]:
    """Of the sockets at this port, whatever their address."""
    for table in _TABLES[mapping.protocol]:
        try:
            lines = procfs.lines(proc / "thread-self" / "net" / table)[1:]
        except OSError:  # without IPv6
            continue
        for line in lines:
            _, local, _, state, *rest = line.split()
            port = int(local.rpartition(":")[2], 16)
            if port == mapping.host_port and state == _LISTENING[mapping.protocol]:
                yield rest[5]


def _has_one(folder: Path, inodes: set[str]) -> bool:
    try:
        return any(path in inodes for _, path in procfs.open_files(folder))
    except OSError:  # it ended, or is not ours to see
        return False


def _name(folder: Path) -> str:
    try:
        return procfs.name(folder)
    except OSError:
        return ""
