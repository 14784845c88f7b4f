"""The process that serves an engine's socket: its configuration file and its ``PATH``.

The kernel tells who listens on a Unix socket. That is dockerd itself, unless systemd listens in its
place; then the engine is the machine's own, and what holds for that is assumed.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from warmboot.system import procfs

ASK_TIMEOUT_S = 5.0
_CREDENTIALS = struct.Struct("3i")  # unix(7), struct ucred: pid, uid, gid
_ENGINE = "dockerd"


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """``config`` is the daemon.json that it was told to read, ``None`` for the usual one.

    ``path`` is its own ``PATH``, where it finds CRIU; empty when that cannot be seen.
    ``containerd`` is the socket of the one that it was told to use. ``adds_runtimes``: its command
    line names OCI runtimes, and it does not start when its daemon.json does so, too.
    """

    pid: int
    config: Path | None
    path: str
    containerd: Path | None = None
    adds_runtimes: bool = False


def listener(address: Path) -> int | None:
    """Who listens at a Unix socket, by pid; ``None`` when nobody does."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(ASK_TIMEOUT_S)
            asked.connect(str(address))
            found = asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(found)[0])


def engine_process(address: Path, proc: Path = Path("/proc")) -> EngineProcess | None:
    """The dockerd that listens at ``address``; ``None`` when nobody does, or somebody else."""
    pid = listener(address)
    return None if pid is None else process_of(pid, proc)


def process_of(pid: int, proc: Path = Path("/proc")) -> EngineProcess | None:
    """The dockerd that has this pid; ``None`` when it is somebody else's."""
    try:
        folder = proc / str(pid)
        words = procfs.arguments(folder)
        if Path(words[0]).name != _ENGINE:
            return None
        variables = (folder / "environ").read_bytes().split(b"\0")
    except OSError:
        return None
    path = next((v[len(b"PATH=") :] for v in variables if v.startswith(b"PATH=")), b"")
    config, containerd = _option(words, "--config-file"), _option(words, "--containerd")
    adds_runtimes = any(word.partition("=")[0] == "--add-runtime" for word in words)
    return EngineProcess(pid, config, os.fsdecode(path), containerd, adds_runtimes)


def _option(words: list[str], option: str) -> Path | None:
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option and (equals or at + 1 < len(words)):
            return Path(value if equals else words[at + 1])
    return None
