"""Where the manager of a host listens on a Unix socket, unless ``MANAGER_SOCKET`` says otherwise.

    root       /run/warmboot/<port>.sock
    a user     $XDG_RUNTIME_DIR/warmboot/<port>.sock, or manager.sock in the storage root

The TCP port names it: what two managers of a host cannot share anyway, and what a client knows.
"""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_PORT = 18080
SYSTEM_FOLDER = Path("/run/warmboot")
MAX_PATH_BYTES = 107
"""unix(7): ``sun_path`` has 108 with its end."""

_USUAL_HOSTS = frozenset({"127.0.0.1", "localhost", "0.0.0.0", "::", ""})


def runtime_folder() -> Path | None:
    """This user's ``XDG_RUNTIME_DIR``; ``None`` for somebody else's, which ``su`` leaves."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    try:
        own = folder.startswith("/") and Path(folder).stat().st_uid == os.geteuid()
    except OSError:
        return None
    return Path(folder) if own else None


def default_socket(host: str, port: int, storage_root: Path) -> Path:
    """The socket of a manager of this user that listens on ``host`` and ``port``, too."""
    host = host.strip("[]").lower()
    name = f"{port}.sock" if host in _USUAL_HOSTS else f"{host}-{port}.sock"
    if os.geteuid() == 0:
        return SYSTEM_FOLDER / name
    runtime = runtime_folder()
    return runtime / "warmboot" / name if runtime else storage_root / "manager.sock"


def run_folder_of(socket: Path) -> Path:
    """The folder of the other sockets of the manager that listens there: its engines' ones."""
    return socket.with_suffix("") if socket.suffix else socket.with_name(f"{socket.name}.d")
