"""A user's default socket: who asks there has the manager make or start that user's engine.

    first connection ──▶ the manager is asked to make it, or to start it
    request ──▶ its engine there? ──yes──▶ as at the engine's own socket
                     └──no──▶ the manager is asked to wake it, once for all who ask meanwhile

What is running is reached without a manager.
"""

from __future__ import annotations

from collections.abc import Callable

from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.listeners.connected import Connected
from warmboot.engine_socket.listeners.unix_listener import UnixListener
from warmboot.engine_socket.port_keeper import Ask
from warmboot.engine_socket.served_engine import EngineSocket, woken
from warmboot.model.conventions.engine_front import DefaultSocket
from warmboot.system.on_demand.once_for_all import OnceForAll

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
        self._waking = OnceForAll[EngineSocket]()

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
        await self._waking.close()

    async def _engine(self) -> EngineSocket:
        engine = self._served(self._engine_id)
        if engine is not None and not engine.asleep:
            return engine
        return await self._waking(lambda: self._woken(gone=engine is not None))

    def _accepted(self) -> None:
        if not self._engine_id:
            self._waking.begin(lambda: self._woken(gone=False))

    async def _woken(self, *, gone: bool) -> EngineSocket:
        self._engine_id = await woken(self._ask, uid=self._socket.uid, gone=gone)
        engine = self._served(self._engine_id)
        if engine is None:
            raise Refusal(503, "the engine was removed before it could be used; try again")
        engine.sockets.add(self._socket.socket)
        return engine
