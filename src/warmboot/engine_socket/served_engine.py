"""One engine's socket, and who talks there.

    starting ──guest──▶ there ──handed over──▶ … ──its VMM ends, or the manager says so──▶ gone
    requests wait       greetings pass         requests pass                 requests are refused

Its VMM's end is seen here, without the manager: nothing else tells a connection into a namespace
that the machine at its other end is no more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from warmboot.engine_socket import socket_file
from warmboot.engine_socket.conversation import Conversation
from warmboot.engine_socket.docker_form import Refusal, looks_inside
from warmboot.engine_socket.guest_connections import GuestConnections
from warmboot.engine_socket.limits import (
    CHUNK_BYTES,
    MOST_BODIES,
    MOST_CONNECTIONS,
    START_TIMEOUT_S,
)
from warmboot.engine_socket.port_keeper import Ask, PortKeeper
from warmboot.engine_socket.relay import Stream
from warmboot.model.conventions.engine_front import GuestEndpoint, ServedEngine
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.system.concurrency import end
from warmboot.system.procfs import open_process

log = logging.getLogger("warmboot.engine_socket")


class EngineSocket:
    """Implements ``conversation.Engine``. ``set`` what it is, any number of times; ``close``.

    ``on_quiet`` is called when nobody is connected any more, ``ask`` asks the manager.
    """

    def __init__(self, engine: ServedEngine, on_quiet: Callable[[], None], ask: Ask) -> None:
        self._on_quiet = on_quiet
        self.ports = PortKeeper(engine.id, ask)
        self.logins: Sequence[RegistryLogin] = ()
        self.bodies = asyncio.Semaphore(MOST_BODIES)
        self.engine = engine
        self._listener: socket.socket | None = None
        self._file: socket_file.FileId | None = None
        self._server: asyncio.Server | None = None
        self._guest: GuestConnections | None = None
        self._endpoint: GuestEndpoint | None = None
        self._pidfd = -1
        self._lost = ""
        self._decided = asyncio.Event()
        self._handed_over = asyncio.Event()
        self._conversations: dict[Conversation, asyncio.Task[None]] = {}

    @property
    def lost(self) -> str:
        return self._lost

    @property
    def id(self) -> str:
        return self.engine.id

    @property
    def names(self) -> tuple[str, str]:
        return self.engine.name, self.engine.socket

    @property
    def busy(self) -> bool:
        """Somebody is connected."""
        return bool(self._conversations)

    async def guest(self, target: bytes) -> GuestConnections:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._decided.wait()
                if looks_inside(target):
                    await self._handed_over.wait()
        except TimeoutError:
            raise Refusal(503, f"the engine {self.engine.name} is still being created") from None
        if self._guest is None:
            raise Refusal(503, self._lost)
        return self._guest

    async def set(self, engine: ServedEngine) -> None:
        """``OSError`` where its socket cannot be."""
        was, self.engine = self.engine, engine
        if self._listener is None or (was.socket, was.uid, was.gid) != (
            engine.socket,
            engine.uid,
            engine.gid,
        ):
            await self._listen()
        if engine.guest is None:
            self._lose(engine.reason)
            return
        if engine.guest != self._endpoint:
            self._lose("")
            self._follow(engine.guest)
        if engine.handed_over:
            self._handed_over.set()

    async def stop_listening(self) -> None:
        """Connections go on."""
        if self._server is not None:
            self._server.close()
            self._server = self._listener = None

    async def close(self) -> None:
        """The engine is no more, and neither is its socket."""
        await self.stop_listening()
        if self._file is not None:
            socket_file.remove_own(Path(self.engine.socket), self._file)
        self._lose(f"the engine {self.engine.name} was removed")
        for conversation in self._conversations:
            conversation.abort()
        await end(*self._conversations.values())

    async def _listen(self) -> None:
        await self.stop_listening()
        path = Path(self.engine.socket)
        engine = self.engine
        self._listener, self._file = socket_file.listen_at(path, engine.uid, engine.gid)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=self._listener, limit=CHUNK_BYTES, backlog=socket_file.BACKLOG
        )

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = Conversation(self, Stream(reader, writer))
        if len(self._conversations) >= MOST_CONNECTIONS and not self._make_room():
            conversation.abort()
            return
        task = asyncio.create_task(conversation.run())
        self._conversations[conversation] = task
        task.add_done_callback(lambda done: self._ended(conversation, done))

    def _make_room(self) -> bool:
        """Hang up on the one that has said nothing for longest; whether there is one."""
        silent = [
            (one.silent_since_s, one)
            for one in self._conversations
            if one.silent_since_s is not None
        ]
        if not silent:
            return False
        _, longest = min(silent, key=lambda pair: pair[0])
        self._conversations[longest].cancel()
        del self._conversations[longest]
        longest.abort()
        return True

    def _ended(self, conversation: Conversation, task: asyncio.Task[None]) -> None:
        self._conversations.pop(conversation, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a conversation met a bug", exc_info=error)
        if not self._conversations:
            self._on_quiet()

    # -- its VM --------------------------------------------------------------------------------

    def _follow(self, endpoint: GuestEndpoint) -> None:
        self._guest, self._endpoint = GuestConnections(self.engine.name, endpoint), endpoint
        if (pidfd := open_process(endpoint.pid, endpoint.start_time_ticks)) is None:
            self._lose(f"the VM of the engine {self.engine.name} is gone")
            return
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died)
        self._lost = ""
        self._decided.set()

    def _died(self) -> None:
        self._lose(f"the VM of the engine {self.engine.name} has ended")

    def _lose(self, reason: str) -> None:
        """Nobody is there, because of ``reason``; or, without one, not yet."""
        self._lost = reason or self._lost
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        guest, self._guest, self._endpoint = self._guest, None, None
        for waited_for in (self._decided, self._handed_over):
            if reason:
                waited_for.set()
            else:
                waited_for.clear()
        if guest is not None:
            guest.abort()
