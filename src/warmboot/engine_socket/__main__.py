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
from pathlib import Path

from warmboot.engine_socket import log_file
from warmboot.engine_socket.front import Front

CONTROL_FD = 3


async def _run() -> None:
    with socket.socket(fileno=CONTROL_FD) as control:
        control.setblocking(False)
        running = asyncio.current_task()
        assert running is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        await Front(control).run()


def main() -> int:
    os.umask(0o177)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a manager's, in the same terminal
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.basicConfig(level=logging.WARNING, handlers=[log_file.of(Path(sys.argv[1]))])
    try:
        asyncio.run(_run())
    except asyncio.CancelledError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
