"""A user's default socket: who asks there has the manager make or start that user's engine.

    first connection ──▶ the manager is asked to make it, or to start it
    request ──▶ its engine there? ──yes──▶ as at the engine's own socket
                     └──no──▶ the manager is asked to wake it, once for all who ask meanwhile

What is running is reached without a manager.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.listeners.connected import Connected
from warmboot.engine_socket.listeners.unix_listener import UnixListener
from warmboot.engine_socket.port_keeper import Ask
from warmboot.engine_socket.served_engine import EngineSocket
from warmboot.model.conventions.engine_front import DefaultSocket
from warmboot.system.concurrency import end

Served = Callable[[str], EngineSocket | None]
"""The engine of this id, if it is served here."""


class UserSocket:
    """``set`` where it is, any number of times; ``close``."""

    def __init__(
        self, socket: DefaultSocket, served: Served, on_quiet: Callable[[], None], ask: Ask
    ) -> None:
        self._socket = socket
        self._served = served
        self._ask = ask
        self._clients = Connected(self._engine, on_quiet, self._accepted)
        self._listener = UnixListener(self._clients)
        self._engine_id = ""
        self._waking: asyncio.Task[EngineSocket | Refusal] | None = None

    @property
    def busy(self) -> bool:
        """Somebody is connected."""
        return self._clients.busy

    async def set(self, socket: DefaultSocket) -> None:
        """``OSError`` where it cannot be."""
        self._socket = socket
        await self._listener.listen(socket.socket, socket.uid, socket.gid)

    async def stop_listening(self) -> None:
        """Streams go on, and what is asked for already is answered."""
        await self._listener.stop()
        self._clients.let_go()

    async def close(self) -> None:
        await self._listener.remove()
        await self._clients.close()
        if self._waking is not None:
            await end(self._waking)

    async def _engine(self) -> EngineSocket:
        engine = self._served(self._engine_id)
        if engine is not None and not engine.asleep:
            return engine
        # Another one may wait for it, too.
        woken = await asyncio.shield(self._wake(gone=engine is not None))
        if isinstance(woken, Refusal):
            raise Refusal(woken.status, woken.message)
        return woken

    def _accepted(self) -> None:
        if not self._engine_id:
            self._wake(gone=False)

    def _wake(self, *, gone: bool) -> asyncio.Task[EngineSocket | Refusal]:
        if self._waking is None or self._waking.done():
            self._waking = asyncio.create_task(self._woken(gone=gone))
        return self._waking

    async def _woken(self, *, gone: bool) -> EngineSocket | Refusal:
        try:
            answer = await self._ask("wake-engine", uid=self._socket.uid, gone=gone)
        except Refusal as refusal:
            return refusal
        if "refused" in answer:
            return Refusal(503, str(answer["refused"]))
        self._engine_id = str(answer["engine"])
        engine = self._served(self._engine_id)
        if engine is None:
            return Refusal(503, "the engine was removed before it could be used; try again")
        engine.sockets.add(self._socket.socket)
        return engine
