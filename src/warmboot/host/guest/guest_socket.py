"""A socket that is connected to a port of a guest, over TCP from inside its namespace, or vsock."""

from __future__ import annotations

import asyncio
import socket

from warmboot.model.vm import GuestAddress
from warmboot.system.in_namespace import connect as connect_in_namespace
from warmboot.system.on_failure import on_failure

CONNECT_TIMEOUT_S = 0.5
"""How long a connection may take where it is tried again."""


async def open_guest_socket(
    address: GuestAddress, timeout_s: float = CONNECT_TIMEOUT_S
) -> socket.socket:
    """A connected, non-blocking socket; ``OSError`` or ``NetworkError`` if there is no answer."""
    if address.vsock_socket is not None:
        return await _open_vsock(address, timeout_s)
    assert address.namespace is not None
    return await connect_in_namespace(address.namespace, address.ip, address.port, timeout_s)


async def _open_vsock(address: GuestAddress, timeout_s: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    with on_failure(connection.close):
        async with asyncio.timeout(timeout_s):
            await loop.sock_connect(connection, str(address.vsock_socket))
            await loop.sock_sendall(connection, f"CONNECT {address.port}\n".encode())
            answer = b""
            while not answer.endswith(b"\n"):
                byte = await loop.sock_recv(connection, 1)
                if not byte:
                    raise ConnectionRefusedError("nothing listens on that port of the guest")
                answer += byte
            if not answer.startswith(b"OK "):
                raise ConnectionRefusedError(answer.decode(errors="replace"))
    return connection
