"""``localhost:<port>`` in the guest leads to the host, while it is asked for.

A registry that the user knows as ``localhost:5000`` listens on the host. While Docker in the
guest pulls from it, this relay listens on the guest's own 127.0.0.1:5000 and passes everything on
to the host.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from .splice import splice
from .system import System
from .wire import HttpError


class HostForward:
    """The relays, by port."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._lock = threading.Lock()
        self._listeners: dict[int, socket.socket] = {}
        self._connections: dict[int, set[socket.socket]] = {}

    def enable(self, port: int) -> None:
        """Idempotent; ``HttpError`` 409 when the port is taken in the guest."""
        with self._lock:
            if port in self._listeners:
                return
            try:
                listener = self._system.listen(port)
            except OSError as error:
                raise HttpError(409, f"port {port} is taken in the guest: {error}") from error
            self._listeners[port] = listener
            self._connections[port] = set()
        threading.Thread(target=self._accept, args=(port, listener), daemon=True).start()

    def disable(self, port: int) -> None:
        """Stop listening and cut the port's connections. Idempotent."""
        with self._lock:
            listener = self._listeners.pop(port, None)
            connections = self._connections.pop(port, set())
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def disable_all(self) -> None:
        for port in list(self._listeners):
            self.disable(port)

    def _accept(self, port: int, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._listeners.get(port) is not listener:
                    client.close()
                    return
                self._connections[port].add(client)
            threading.Thread(target=self._relay, args=(port, client), daemon=True).start()

    def _relay(self, port: int, client: socket.socket) -> None:
        try:
            with client, self._system.connect_to_host(port) as host:
                splice(client, host)
        except OSError:
            pass  # the client sees its connection closed, as if nobody listened
        finally:
            with self._lock:
                self._connections.get(port, set()).discard(client)
