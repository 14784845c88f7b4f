"""Ports of this machine for what a test starts a moment later."""

from __future__ import annotations

import contextlib
import random
import socket

from warmboot.model.conventions.manager_socket import SYSTEM_FOLDER

_PORTS = range(20_000, 32_000)
"""Below those that the kernel gives to connections (32768 and up): no connection takes such a port
before the test has bound it."""

_draw = random.SystemRandom().choice  # as tests seed the other generator
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has, TCP's and UDP's; in this process nobody is given it again."""
    while True:
        port = _draw(_PORTS)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port


def _is_free(port: int) -> bool:
    kinds = socket.SOCK_STREAM, socket.SOCK_DGRAM
    with contextlib.ExitStack() as probes:
        for kind in kinds:
            probe = probes.enter_context(socket.socket(type=kind))
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True


def remove_socket(port: int) -> None:
    """Root's Unix socket of a manager with that port, and its lock, which one that was killed
    has left."""
    for name in (f"{port}.sock", f"{port}.sock.lock"):
        (SYSTEM_FOLDER / name).unlink(missing_ok=True)
