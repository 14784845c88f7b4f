"""One engine's socket, and the guest behind it.

    starting ──guest──▶ connected ──answers──▶ there ──handed over──▶ … ──its VMM ends──▶ gone
       ▲ requests wait     │                   greetings pass    requests pass     are refused
       └── its VMM ends ───┘
                                 parked: the manager is asked to wake it, once for all who ask

Its VMM's end is seen here, without the manager: nothing else tells a connection into a namespace
that the machine at its other end is no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from warmboot.engine_socket.docker_form import Refusal, looks_inside
from warmboot.engine_socket.guest.guest_connections import GuestConnections
from warmboot.engine_socket.limits import (
    GREETED_TIMEOUT_S,
    MOST_BODIES,
    MOST_LOOKS,
    START_TIMEOUT_S,
)
from warmboot.engine_socket.listeners.connected import Connected
from warmboot.engine_socket.listeners.tls_listener import TlsListener
from warmboot.engine_socket.listeners.unix_listener import UnixListener
from warmboot.engine_socket.port_keeper import Ask, PortKeeper
from warmboot.model.conventions.engine_front import GuestEndpoint, ServedEngine
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.system.on_demand.once_for_all import OnceForAll
from warmboot.system.procfs import open_process

MOST_WAKES = 3
"""For one request, of an engine that is parked again and again."""


class EngineSocket:
    """Implements ``conversation.Engine``. ``set`` what it is, any number of times; ``close``.

    ``on_quiet`` is called when nobody is connected any more, ``ask`` asks the manager.
    """

    def __init__(self, engine: ServedEngine, on_quiet: Callable[[], None], ask: Ask) -> None:
        self._clients = Connected(self._itself, on_quiet)
        self._listener = UnixListener(self._clients)
        # Of their own: whoever comes over a network displaces nobody at the socket.
        self._remote_clients = Connected(self._itself, on_quiet)
        self._tls = TlsListener(self._remote_clients)
        self.ports = PortKeeper(engine.id, ask)
        self._ask = ask
        self._waking = OnceForAll[str]()
        self.logins: Sequence[RegistryLogin] = ()
        self.bodies = asyncio.Semaphore(MOST_BODIES)
        self.looks = asyncio.Semaphore(MOST_LOOKS)
        self.engine = engine
        self.sockets: set[str] = set()
        """Paths of others that lead here, too."""
        self._guest: GuestConnections | None = None
        self._endpoint: GuestEndpoint | None = None
        self._pidfd = -1
        self._lost = ""
        self._decided = asyncio.Event()
        self._handed_over = asyncio.Event()
        self._greetings = self._under_way = 0
        self._used_s = asyncio.get_running_loop().time()
        self._all_greeted = asyncio.Event()
        self._all_greeted.set()

    @property
    def lost(self) -> str:
        return self._lost

    @property
    def id(self) -> str:
        return self.engine.id

    @property
    def names(self) -> tuple[str, ...]:
        return self.engine.name, self.engine.socket, *self.sockets

    @property
    def folders(self) -> Sequence[HostFolder]:
        return self.engine.folders

    @property
    def labels(self) -> Sequence[str]:
        return self.engine.labels

    @property
    def busy(self) -> bool:
        """Somebody is connected."""
        return self._clients.busy or self._remote_clients.busy

    @property
    def asleep(self) -> bool:
        """Nobody is there, nor about to come."""
        return self._guest is None and self._decided.is_set() and not self.engine.wakes

    async def guest(self, target: bytes) -> GuestConnections:
        for _ in range(MOST_WAKES):
            if self.engine.wakes:
                await self._woken()
            if not self._decided.is_set() or not self._handed_over.is_set():
                await self._until_there(target)
            if not self.engine.wakes:  # it may just have been parked again
                break
        if self._guest is None:
            raise Refusal(503, self._lost)
        if self.engine.reason:  # its VM is there, and stands still
            raise Refusal(503, self.engine.reason)
        return self._guest

    async def _woken(self) -> None:
        waking = self._waking.begin(lambda: woken(self._ask, engine=self.id))
        await asyncio.wait({waking})
        if waking.cancelled():
            raise Refusal(503, self._lost)
        waking.result()

    async def _until_there(self, target: bytes) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._decided.wait()
                if looks_inside(target):
                    await self._handed_over.wait()
        except TimeoutError:
            raise Refusal(503, f"the engine {self.engine.name} is still being created") from None

    @contextlib.contextmanager
    def under_way(self, target: bytes) -> Iterator[None]:
        greets = not looks_inside(target)
        self._under_way += 1
        self._greetings += greets
        if greets:
            self._all_greeted.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            self._used_s = asyncio.get_running_loop().time()
            self._greetings -= greets
            if self._greetings == 0:
                self._all_greeted.set()

    @property
    def unused_s(self) -> float:
        """For how long nothing was asked of it, at any of its sockets."""
        return 0.0 if self._under_way else asyncio.get_running_loop().time() - self._used_s

    async def greeted(self) -> None:
        """Return when nobody waits for a greeting, or has done so for long enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GREETED_TIMEOUT_S):
                await self._all_greeted.wait()

    async def set(self, engine: ServedEngine) -> None:
        """``OSError`` where its socket or its port cannot be; what can be is there."""
        self.engine = engine
        await self._listener.listen(engine.socket, engine.uid, engine.gid)
        self._set_guest(engine)
        await self._tls.listen(engine.tls)

    def _set_guest(self, engine: ServedEngine) -> None:
        if engine.guest is None:
            self._lose(engine.reason)
            return
        if engine.guest != self._endpoint:
            self._lose("")
            self._follow(engine.guest)
        if not engine.answers:
            if self._guest is not None:
                self._guest.connect_ahead()
            return
        if self._guest is not None:
            self._lost = ""
            self._decided.set()
        if engine.handed_over:
            self._handed_over.set()

    async def stop_listening(self) -> None:
        """Streams go on, and what is asked for already is answered."""
        await self._listener.stop()
        await self._tls.stop()
        self._clients.let_go()
        self._remote_clients.let_go()

    async def close(self) -> None:
        """The engine is no more, and neither is its socket."""
        await self._listener.remove()
        await self._tls.stop()
        self._lose(f"the engine {self.engine.name} was removed")
        self.engine = replace(self.engine, guest=None, wakes=False)  # for who asks from now on
        await self._waking.close()
        await asyncio.gather(self._clients.told(), self._remote_clients.told())
        await self._clients.close()
        await self._remote_clients.close()

    async def _itself(self) -> EngineSocket:
        return self

    # -- its VM --------------------------------------------------------------------------------

    def _follow(self, endpoint: GuestEndpoint) -> None:
        self._guest, self._endpoint = GuestConnections(self.engine.name, endpoint), endpoint
        if (pidfd := open_process(endpoint.pid, endpoint.start_time_ticks)) is None:
            self._died("is gone")
            return
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._died)

    def _died(self, how: str = "has ended") -> None:
        """One that has not answered yet is not the last word."""
        why = f"the VM of the engine {self.engine.name} {how}"
        self._lose(why if self.engine.answers else "")

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


async def woken(ask: Ask, **whose: Any) -> str:
    """The id of an engine that the manager has had run. ``Refusal``."""
    answer = await ask("wake-engine", **whose)
    if "refused" in answer:
        raise Refusal(503, str(answer["refused"]))
    return str(answer["engine"])
