"""A Unix socket that somebody owns, and who connects there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from warmboot.engine_socket.limits import READ_AHEAD_BYTES
from warmboot.engine_socket.listeners import socket_file
from warmboot.engine_socket.listeners.connected import Connected
from warmboot.engine_socket.relay import Stream


class UnixListener:
    """``listen``, any number of times; ``stop``, or ``remove`` the file, too."""

    def __init__(self, clients: Connected) -> None:
        self._clients = clients
        self._place: tuple[str, int, int] | None = None
        self._file: socket_file.FileId | None = None
        self._server: asyncio.Server | None = None

    async def listen(self, path: str, uid: int, gid: int) -> None:
        """``OSError`` where it cannot be."""
        if self._server is not None and self._place == (path, uid, gid):
            return
        await self.stop()
        listener, self._file = socket_file.listen_at(Path(path), uid, gid)
        self._place = (path, uid, gid)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=READ_AHEAD_BYTES, backlog=socket_file.BACKLOG
        )

    async def stop(self) -> None:
        """Connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def remove(self) -> None:
        await self.stop()
        if self._place is not None and self._file is not None:
            socket_file.remove_own(Path(self._place[0]), self._file)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.accept(Stream(reader, writer))
