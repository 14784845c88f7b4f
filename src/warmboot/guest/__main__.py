"""Starts the agent in the VM: ``python3 -S -E -m guest`` in /usr/lib/warmboot."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from .agent import Agent
from .claim import TOKEN_FILE
from .docker import Docker
from .system import LinuxSystem

ADDRESS = "198.18.0.2"
PORT = 1024
_THREAD_STACK_BYTES = 256 << 10


def listen() -> socket.socket:
    """The VM's network when there is one, else vsock."""
    if Path("/sys/class/net/eth0").exists():
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, PORT))
    else:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind((socket.VMADDR_CID_ANY, PORT))
    listener.listen(128)
    return listener


def main() -> int:
    os.umask(0o022)
    Path(TOKEN_FILE).parent.mkdir(exist_ok=True)
    threading.stack_size(_THREAD_STACK_BYTES)
    docker = Docker("/run/docker.sock", Path("/usr/share/warmboot/probe.tar"))
    Agent(LinuxSystem(), docker).start(listen())
    # All that is there now stays: keep the collector from going over it (and from copying the
    # pages that clones share).
    gc.collect()
    gc.freeze()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main())
