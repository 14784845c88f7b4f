"""How connections come into a simulated VM: Firecracker's vsock device, as seen from both sides.

    host ──CONNECT 1024──▶ vsock.sock ──▶ the queue that the guest agent accepts from
         ◀──OK n────────

As there, a connection is closed while nothing listens in the guest. The agent then has the host's
own connection, through which nothing passes while the machine is paused.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from queue import SimpleQueue
from typing import TYPE_CHECKING

from warmboot.hypervisors.simulated.vmm.machine import GuestClock, Machine

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_ORDER_BYTES = 32


class GuestSocket(socket.socket):
    """The guest's end of a connection. It belongs to a thread of the guest's, and stops with it."""

    def __init__(self, connected: socket.socket, clock: GuestClock) -> None:
        super().__init__(fileno=connected.detach())
        self.setblocking(True)
        self._clock = clock

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        while True:
            try:
                data = super().recv(size, flags)
            except TimeoutError:
                if not self._clock.paused:
                    raise
                self._clock.wait()  # in the guest no time has passed
                continue
            self._clock.wait()
            return data

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        self._clock.wait()
        return super().send(data, flags)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        self._clock.wait()
        super().sendall(data, flags)


class Vsock:
    """``serve`` is the device, ``accept`` the guest's listening socket."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._connected = SimpleQueue[GuestSocket]()
        self._connecting: set[asyncio.Task[None]] = set()

    def accept(self) -> tuple[socket.socket, None]:
        """The next connection to the guest, for a thread of its agent."""
        return self._connected.get(), None

    async def serve(self, listener: socket.socket) -> None:
        """Take connections for ever; ``listener`` does not block."""
        loop = asyncio.get_running_loop()
        while True:
            connected, _ = await loop.sock_accept(listener)
            task = asyncio.create_task(self._connect(connected))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connected: socket.socket) -> None:
        loop, machine = asyncio.get_running_loop(), self._machine
        with connected, contextlib.suppress(ConnectionError):
            words = (await _read_line(connected)).split()
            await machine.clock.running()
            if len(words) != 2 or words[0] != b"CONNECT" or not words[1].isdigit():
                return
            if machine.clock.now() < machine.config.boot_s:
                return
            await loop.sock_sendall(connected, b"OK 1073741824\n")
            if machine.agent_silent:
                while await loop.sock_recv(connected, 65536):
                    pass
                return
            self._connected.put(GuestSocket(connected, machine.clock))


async def _read_line(connected: socket.socket) -> bytes:
    """A byte at a time: what comes after the line is the agent's."""
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_ORDER_BYTES:
        byte = await asyncio.get_running_loop().sock_recv(connected, 1)
        if not byte:
            break
        line += byte
    return line
