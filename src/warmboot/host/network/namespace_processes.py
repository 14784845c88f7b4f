"""Finds the processes in the network namespaces of a prefix, whichever manager made them."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from warmboot.host.network.config import NETNS_DIR


@dataclass(frozen=True, slots=True)
class NamespaceProcess:
    """A process, by its command line; ``namespace`` is the name of the one that it is in."""

    pid: int
    command: bytes
    namespace: str

    def names(self, root: Path) -> bool:
        """Whether its command line names a file of this storage root."""
        return os.fsencode(root) + b"/" in self.command


def namespace_processes(prefix: str) -> list[NamespaceProcess]:
    """The processes in the namespaces of this prefix. Blocks for milliseconds."""
    pattern = re.compile(rf"{re.escape(prefix)}-[1-9]\d{{0,4}}")
    names = {}
    with contextlib.suppress(FileNotFoundError):
        for path in NETNS_DIR.iterdir():
            if pattern.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    names[path.stat().st_ino] = path.name
    if not names:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look at
            if entry.name.isdigit() and (name := names.get((entry / "ns/net").stat().st_ino)):
                command = (entry / "cmdline").read_bytes()
                found.append(NamespaceProcess(int(entry.name), command, name))
    return found
