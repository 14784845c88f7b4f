"""Notifies the service manager with sd_notify(3), for systemd's ``Type=notify``."""

from __future__ import annotations

import os
import socket

READY, STOPPING = "READY=1", "STOPPING=1"


def longer_s(seconds: float) -> str:
    """That what is under way may take so long from now on, whatever limit it had."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def notify(state: str) -> None:
    """Send ``state`` to the socket that ``NOTIFY_SOCKET`` names; nothing where there is none.

    A service manager that is gone is no reason to fail: errors are left unsaid.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
            told.connect(address)
            told.sendall(state.encode())
    except OSError:
        return
