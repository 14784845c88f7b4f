"""All engines of one manager, and the manager's way to tell of them.

The front ends when it has no socket and no manager, or has been retired and nobody is connected
any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmboot import __version__
from warmboot.engine_socket.docker_form import Refusal
from warmboot.engine_socket.limits import MANAGER_ANSWER_TIMEOUT_S, MANAGER_TIMEOUT_S
from warmboot.engine_socket.listeners import socket_file
from warmboot.engine_socket.served_engine import EngineSocket
from warmboot.engine_socket.user_socket import UserSocket
from warmboot.model.conventions.engine_front import (
    DefaultSocket,
    ServedEngine,
    from_message,
    logins_from,
    logins_message,
)
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.system.call_channel import MOST_LINE_BYTES, CallChannel, CallRefused, ChannelClosed

FIRST_CALL_TIMEOUT_S = 60.0
"""A manager that has started a front speaks to it at once."""

RETRY_PAUSE_S = 0.1

_NEEDS_MANAGER = {"wake-engine": "your engine does not run, and to start it needs"}


class Front:
    """``run`` it over the control socket that listens. ``code`` is a digest of what it runs."""

    def __init__(self, control: socket.socket, code: str) -> None:
        self._control = control
        self._code = code
        self._folder = Path(control.getsockname()).parent
        self._engines: dict[str, EngineSocket] = {}
        self._logins: dict[str, Sequence[RegistryLogin]] = {}
        """By engine, also of those whose socket is still to come."""
        self._users: dict[int, UserSocket] = {}
        self._changing = asyncio.Lock()
        self._managers: list[CallChannel] = []
        self._manager_came = asyncio.Event()
        self._retired = False
        self._may_end = asyncio.Event()

    async def run(self) -> None:
        server = await asyncio.start_unix_server(
            self._manage, sock=self._control, limit=MOST_LINE_BYTES
        )
        first = asyncio.get_running_loop().call_later(FIRST_CALL_TIMEOUT_S, self._look)
        await self._may_end.wait()
        first.cancel()
        server.close()
        if not self._retired:  # or all of it is another's by now
            socket_file.remove_folder(self._folder)

    async def _manage(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = CallChannel(reader, writer, self._call)
        self._managers.append(channel)
        self._manager_came.set()
        try:
            await channel.run()
        finally:
            self._managers.remove(channel)
            if not self._managers:
                self._manager_came.clear()
            self._look()

    async def ask_manager(self, call: str, /, **given: Any) -> Mapping[str, Any]:
        """What the manager answers; one that is being restarted is waited for. ``Refusal``."""
        limit_s = MANAGER_ANSWER_TIMEOUT_S.get(call, MANAGER_TIMEOUT_S)
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    if self._retired and not self._managers:
                        raise Refusal(503, "warmboot was upgraded; connect again")
                    async with asyncio.timeout(MANAGER_TIMEOUT_S):
                        await self._manager_came.wait()
                    with contextlib.suppress(ChannelClosed):
                        return await self._managers[-1].call(call, **given)
                    await asyncio.sleep(RETRY_PAUSE_S)  # it is closed, and may still be listed
        except TimeoutError:
            what = _NEEDS_MANAGER.get(call, "published ports need")
            raise Refusal(503, f"{what} warmboot's manager, which does not answer") from None
        except CallRefused as refused:
            raise Refusal(500, str(refused)) from refused

    def _look(self) -> None:
        sockets = self._sockets()
        busy = any(one.busy for one in sockets)
        if not self._managers and not (busy if self._retired else sockets):
            self._may_end.set()

    def _sockets(self) -> Sequence[EngineSocket | UserSocket]:
        return (*self._engines.values(), *self._users.values())

    async def _call(self, name: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        if name == "greeted":  # it takes its time, and changes nothing
            if (engine := self._engines.get(str(given["id"]))) is not None:
                await engine.greeted()
            return {}
        async with self._changing:
            if name == "hello":
                return {"version": __version__, "code": self._code}
            if name == "list":
                ids, uids = sorted(self._engines), sorted(self._users)
                return {"ids": ids, "uids": uids, "logged_in": sorted(self._logins)}
            if name == "unused":
                return {"engines": {one.id: one.unused_s for one in self._engines.values()}}
            if name == "logins":
                return logins_message(given["id"], self._logins.get(given["id"], ()))
            if name == "serve":
                await self._serve(from_message(given))
            elif name == "log-in":
                self._log_in(given)
            elif name == "serve-user":
                await self._serve_user(DefaultSocket(**given))
            elif name == "forget-user":
                if (user := self._users.pop(int(given["uid"]), None)) is not None:
                    await user.close()
            elif name == "forget":
                self._logins.pop(str(given["id"]), None)
                if (engine := self._engines.pop(str(given["id"]), None)) is not None:
                    await engine.close()
            elif name == "retire":
                self._retired = True
                for one in self._sockets():
                    await one.stop_listening()
            else:
                raise CallRefused(f"this front does not know {name}")
            return {}

    async def _serve(self, wanted: ServedEngine) -> None:
        engine = self._engines.get(wanted.id) or EngineSocket(wanted, self._look, self.ask_manager)
        self._engines[wanted.id] = engine
        engine.logins = self._logins.get(wanted.id, ())
        with _refused(wanted.socket):
            await engine.set(wanted)

    def _log_in(self, given: Mapping[str, Any]) -> None:
        logins = logins_from(given)
        if logins:
            self._logins[given["id"]] = logins
        else:
            self._logins.pop(given["id"], None)
        if (engine := self._engines.get(given["id"])) is not None:
            engine.logins = logins

    async def _serve_user(self, wanted: DefaultSocket) -> None:
        user = self._users.get(wanted.uid) or UserSocket(
            wanted, self._engines.get, self._look, self.ask_manager
        )
        with _refused(wanted.socket):
            await user.set(wanted)
        self._users[wanted.uid] = user


@contextlib.contextmanager
def _refused(socket_path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CallRefused(f"{socket_path}: {error}") from error
