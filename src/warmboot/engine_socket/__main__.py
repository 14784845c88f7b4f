"""Starts the front: ``python -m warmboot.engine_socket FOLDER``, control socket: descriptor 3.

It listens already: whoever started us may speak to us before we are up. In the folder, where it
is, our log is, too; and those who look at the list of processes see whose front we are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from warmboot.engine_socket.front import Front
from warmboot.engine_socket.limits import MOST_LOG_BYTES
from warmboot.engine_socket.listeners.socket_file import LOG
from warmboot.model.conventions.engine_front import CODE
from warmboot.system.hashing import code_digest

CONTROL_FD = 3


def log_in(folder: Path) -> logging.Handler:
    """The front's log there, which does not grow for ever."""
    handler = RotatingFileHandler(folder / LOG, maxBytes=MOST_LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


async def _run(code: str) -> None:
    with socket.socket(fileno=CONTROL_FD) as control:
        control.setblocking(False)
        running = asyncio.current_task()
        assert running is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await Front(control, code).run()


def main() -> int:
    code = code_digest(CODE)  # before somebody puts others in their place
    os.umask(0o177)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a manager's, in the same terminal
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.WARNING, handlers=[log_in(Path(sys.argv[1]))])
    try:
        asyncio.run(_run(code))
    except asyncio.CancelledError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
