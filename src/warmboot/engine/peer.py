"""The process behind an engine's socket: which configuration it reads, where it finds programs.

The kernel tells who listens on a Unix socket. That is dockerd itself, unless systemd listens in its
place; then the engine is the machine's own, and what holds for that is assumed.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

ASK_TIMEOUT_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # unix(7), struct ucred: pid, uid, gid
_ENGINE = "dockerd"
_CONFIG = "--config-file"


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """``config`` is the daemon.json that it was told to read, ``None`` for the usual one.

    ``path`` is its own ``PATH``, where it finds CRIU; empty when that cannot be seen.
    """

    pid: int
    config: Path | None
    path: str


def engine_process(address: Path, proc: Path = Path("/proc")) -> EngineProcess | None:
    """The dockerd that listens at ``address``; ``None`` when nobody does, or somebody else."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(ASK_TIMEOUT_S)
            asked.connect(str(address))
            found = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid = _CREDENTIALS.unpack(found)[0]
        folder = proc / str(pid)
        words = [os.fsdecode(word) for word in (folder / "cmdline").read_bytes().split(b"\0")]
        if Path(words[0]).name != _ENGINE:
            return None
        variables = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    path = next((v[len(b"PATH=") :] for v in variables if v.startswith(b"PATH=")), b"")
    return EngineProcess(pid, _config(words), os.fsdecode(path))


def _config(words: list[str]) -> Path | None:
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == _CONFIG and (equals or at + 1 < len(words)):
            return Path(value if equals else words[at + 1])
    return None
