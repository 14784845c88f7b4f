"""A TCP port of an engine: TLS, and only for who has a certificate of that engine's authority."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

from warmboot.engine_socket.limits import READ_AHEAD_BYTES
from warmboot.engine_socket.listeners import socket_file
from warmboot.engine_socket.listeners.connected import Connected
from warmboot.engine_socket.listeners.tls_stream import TlsStream
from warmboot.model.conventions.engine_certificates import (
    AUTHORITY,
    SERVER_CERTIFICATE,
    SERVER_KEY,
)
from warmboot.model.conventions.engine_front import TlsEndpoint

SILENT_S, PROBE_EVERY_S, PROBES = 60, 30, 4
"""After so much silence the client's machine is asked whether it is there, so often."""


class TlsListener:
    """``listen``, any number of times, also to nothing (``None``); ``stop``.

    New certificates count from the next connection on; those that are there go on.
    """

    def __init__(self, clients: Connected) -> None:
        self._clients = clients
        self._endpoint: TlsEndpoint | None = None
        self._context: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, endpoint: TlsEndpoint | None) -> None:
        """``OSError`` where it cannot be."""
        if self._endpoint == endpoint and (self._server is not None or endpoint is None):
            return
        before, self._endpoint = self._endpoint, endpoint
        if endpoint is None or before is None or _place(before) != _place(endpoint):
            await self.stop()
        if endpoint is None:
            return
        self._context = _context(Path(endpoint.certificates))
        if self._server is not None:
            return

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert self._context is not None
            with contextlib.suppress(OSError):  # it has gone already
                _watch(writer.get_extra_info("socket"))
            self._clients.accept(TlsStream.over(reader, writer, self._context))

        self._server = await asyncio.start_server(
            accept,
            endpoint.address,
            endpoint.port,
            limit=READ_AHEAD_BYTES,
            backlog=socket_file.BACKLOG,
        )

    async def stop(self) -> None:
        """Connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = None


def _place(endpoint: TlsEndpoint) -> tuple[str, int]:
    return endpoint.address, endpoint.port


def _watch(client: socket.socket) -> None:
    """Of who is gone without a word, a network tells nothing, and some streams are silent."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY_S)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)


def _context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.load_cert_chain(folder / SERVER_CERTIFICATE, folder / SERVER_KEY)
    context.load_verify_locations(folder / AUTHORITY)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
