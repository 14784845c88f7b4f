"""The manager's way to the front, the process that serves the engines' sockets.

    none there ──▶ started, told all that there is ──▶ there ──it dies──▶ started anew, told again
    an earlier manager's, of the same code ──────────▶   │
    an earlier manager's, of other code: retired         └── stop: it goes on without us

Logins at registries are in the memory of both, and nowhere else: whoever of the two is started anew
has them from the other one. So an upgrade keeps them, and a reboot does not.

Its control socket is bound before it starts, so that nobody waits for it to come up. Two processes
may serve for a while: one that was retired passes what it has begun, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from warmboot.model.conventions.engine_front import (
    CODE,
    CONTROL_SOCKET,
    PROCESS_FILE,
    USERS_FOLDER,
    DefaultSocket,
    ServedEngine,
    as_message,
    logins_from,
    logins_message,
)
from warmboot.model.conventions.manager_socket import MAX_PATH_BYTES
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.errors import HostError, InvalidRequest
from warmboot.system.back_off import BackOff
from warmboot.system.call_channel import (
    MOST_LINE_BYTES,
    CallChannel,
    CallRefused,
    ChannelClosed,
    Serve,
    nothing_served,
)
from warmboot.system.concurrency import end
from warmboot.system.hashing import code_digest
from warmboot.system.procfs import open_process, start_ticks

log = structlog.get_logger(__name__)

MODULE = "warmboot.engine_socket"
ANSWER_TIMEOUT_S = 30.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0
_CONTROL_FD = 3
_SUFFIX = ".new"
_REFUSED = dict.fromkeys(("serve", "serve-user"), "an engine's socket cannot be created")
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "PYTHONHOME")
"""It parses what users send: of the manager's settings, tokens among them, it gets none."""


class EngineFront:
    """``serve`` and ``forget`` engines, ``stop`` to let go. ``folder`` is the manager's own."""

    def __init__(self, folder: Path, gid: int | None) -> None:
        self.folder = folder
        self.gid = os.getegid() if gid is None else gid
        self.serve_calls: Serve = nothing_served
        """Answers what the front asks for."""
        self.on_lost: Callable[[], Awaitable[None]] = _nothing
        """Told when a front has died: whatever it was in the middle of, it does not go on."""
        self._served: dict[str, ServedEngine] = {}
        self._users: dict[int, DefaultSocket] = {}
        self._logins: dict[str, Sequence[RegistryLogin]] = {}
        self._channel: CallChannel | None = None
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._pidfd = -1
        self._retired: tuple[int, int] | None = None
        """The last front that was: its pid and start time. It ends with the streams it passes."""
        self._connecting = asyncio.Lock()

    def socket_of(self, name: str) -> Path:
        """The path of the socket of the engine ``name``. ``InvalidRequest`` if it is too
        long for a socket.
        """
        return _of_allowed_length(self.folder / "engines" / f"{name}.sock")

    async def adopt(self) -> tuple[Sequence[str], Sequence[int]]:
        """Take over the front that an earlier manager left; whose sockets it serves.

        Ids of engines, and of users who have a default socket.
        """
        await asyncio.to_thread(_code)  # of the files that are there now, not after an upgrade
        self._stopped = False
        async with self._connecting:
            if self._channel is None:
                await self._connect_to_earlier()
        if self._channel is None:
            return (), ()
        found = await self._call("list")
        return found["ids"], found["uids"]

    async def serve(self, engine: ServedEngine) -> None:
        """Have this socket, with this behind it. ``HostError`` where that cannot be."""
        self._served[engine.id] = engine
        await self._call("serve", **as_message(engine))

    async def greeted(self, engine_id: str) -> None:
        """Return when who only asks whether there is a Docker has been answered; soon anyway."""
        await self._call("greeted", id=engine_id)

    async def unused_s(self) -> Mapping[str, float]:
        """For how many seconds nothing was asked of each engine, by id; nothing while a front that
        was retired may still pass something. ``HostError``."""
        if self._retired is not None and (pidfd := open_process(*self._retired)) is not None:
            os.close(pidfd)
            return {}
        found: Mapping[str, float] = (await self._call("unused"))["engines"]
        return found

    async def log_in(self, engine_id: str, logins: Sequence[RegistryLogin]) -> None:
        """Give an engine's logins to the front, in the place of earlier ones."""
        self._logins[engine_id] = logins
        await self._call("log-in", **logins_message(engine_id, logins))

    async def forget(self, engine_id: str) -> None:
        """Idempotent."""
        self._logins.pop(engine_id, None)
        known = self._served.pop(engine_id, None)
        if known is not None or self._channel is not None:
            await self._call("forget", id=engine_id)

    async def serve_user(self, uid: int) -> None:
        """Have this user's default socket. ``HostError`` where that cannot be."""
        path = _of_allowed_length(self.folder / USERS_FOLDER / f"{uid}.sock")
        self._users[uid] = DefaultSocket(uid, self.gid, str(path))
        await self._call("serve-user", **asdict(self._users[uid]))

    async def forget_user(self, uid: int) -> None:
        """Idempotent."""
        self._users.pop(uid, None)
        await self._call("forget-user", uid=uid)

    async def stop(self) -> None:
        """Let go of the front, whose process goes on unless it serves nobody."""
        self._stopped = True  # what is given up now may tell it how that ends
        channel, self._channel = self._channel, None
        self._served.clear()
        self._users.clear()
        self._logins.clear()
        if channel is not None:
            channel.close()
        await end(*self._tasks)
        self._unwatch()

    # -- its process ---------------------------------------------------------------------------

    async def _call(self, name: str, /, **given: Any) -> Mapping[str, Any]:
        for last in (False, True):
            channel = await self._connected()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    return await channel.call(name, **given)
            except ChannelClosed as error:
                if last:
                    raise _not_there(str(error)) from error
            except CallRefused as error:
                raise HostError(
                    _REFUSED.get(name, f"the front of the engines' sockets refused {name}"),
                    details=str(error),
                    resolution=f"check the folder {self.folder}, and front.log there",
                ) from error
            except TimeoutError as error:
                channel.close()  # and is asked who it is, or ended
                raise _not_there(f"no answer within {ANSWER_TIMEOUT_S:g} s") from error
        raise AssertionError

    async def _connected(self) -> CallChannel:
        async with self._connecting:
            if self._stopped:
                raise _not_there("the manager ends")
            if self._channel is None:
                await self._connect_to_earlier()
            if self._channel is None:
                await self._start()
            assert self._channel is not None
            return self._channel

    async def _connect_to_earlier(self) -> None:
        try:
            channel = await self._open()
        except OSError:
            return
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                found = await channel.call("hello")
                await self._learn_logins(channel)
                if found.get("code") != _code():  # earlier ones did not tell it
                    log.info("the front runs other code, and is retired", **found)
                    self._retired = _noted(self.folder / PROCESS_FILE)
                    await channel.call("retire")
                    channel.close()
                    return
        except (CallRefused, ChannelClosed, TimeoutError) as error:
            log.warning("an earlier front does not answer, and is ended", error=str(error))
            channel.close()
            _end_hung(self.folder / PROCESS_FILE)
            return
        await self._keep(channel)

    async def _learn_logins(self, channel: CallChannel) -> None:
        """Also from one that is retired: nobody else has them."""
        for engine_id in (await channel.call("list")).get("logged_in", ()):
            if engine_id not in self._logins:  # ours are newer
                self._logins[engine_id] = logins_from(await channel.call("logins", id=engine_id))

    async def _start(self) -> None:
        try:
            with _listening(self.folder / CONTROL_SOCKET) as control:
                pid = _spawn(control, self.folder / "front.log")
                self._watch(pid)
                start = start_ticks(pid)
                noted = self.folder / PROCESS_FILE
                noted.touch(mode=0o600)  # who could write to it could have any process ended
                noted.write_text(f"{pid} {start}\n")
            channel = await self._open()
        except OSError as error:
            raise _not_there(str(error)) from error
        await self._keep(channel)

    async def _open(self) -> CallChannel:
        reader, writer = await asyncio.open_unix_connection(
            str(self.folder / CONTROL_SOCKET), limit=MOST_LINE_BYTES
        )
        channel = CallChannel(reader, writer, lambda call, given: self.serve_calls(call, given))
        self._begin(self._run(channel))
        return channel

    async def _keep(self, channel: CallChannel) -> None:
        """Tell it all that there is: it may be a new one."""
        # Others come and go meanwhile.
        told = [("log-in", logins_message(*of_one)) for of_one in self._logins.items()]
        told += [("serve", as_message(engine)) for engine in self._served.values()]
        told += [("serve-user", asdict(user)) for user in self._users.values()]
        for call, given in told:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await channel.call(call, **given)
            except CallRefused as error:
                log.error("a socket of engines cannot be created", error=str(error))
            except (ChannelClosed, TimeoutError) as error:
                channel.close()
                raise _not_there(
                    str(error) or f"no answer within {ANSWER_TIMEOUT_S:g} s"
                ) from error
        self._channel = channel

    async def _run(self, channel: CallChannel) -> None:
        await channel.run()
        if self._channel is not channel:  # let go of, or never kept
            return
        self._channel = None
        await self.on_lost()
        if self._served or self._users:
            log.error("the front of the engines' sockets has ended, and is started anew")
            self._begin(self._again())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _watch(self, pid: int) -> None:
        """When it ends before us, it does not stay a zombie."""
        self._unwatch()
        self._pidfd = os.pidfd_open(pid)

        def ended() -> None:
            self._unwatch()
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

        asyncio.get_running_loop().add_reader(self._pidfd, ended)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _again(self) -> None:
        back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while (self._served or self._users) and self._channel is None:
            try:
                await self._connected()
            except HostError as error:
                log.error("the front cannot be started", error=error.details)
                await back_off.pause()


@functools.cache
def _code() -> str:
    """Of what this manager would start, and was made to speak with."""
    return code_digest(CODE)


async def _nothing() -> None:
    return


def _of_allowed_length(path: Path) -> Path:
    if len(os.fsencode(f"{path}{_SUFFIX}")) > MAX_PATH_BYTES:
        raise InvalidRequest(
            f"{path} is too long for a Unix socket",
            details=f"it can have at most {MAX_PATH_BYTES - len(_SUFFIX)} bytes",
            resolution="choose a shorter name, or set MANAGER_SOCKET to a shorter path",
        )
    return path


def _not_there(why: str) -> HostError:
    return HostError(
        "the front of the engines' sockets does not answer",
        details=why,
        resolution="it is tried again; the manager's log, and front.log beside its control socket, "
        "say why",
    )


def _noted(file: Path) -> tuple[int, int] | None:
    """A front's pid and start time, as its manager has noted them."""
    try:
        pid, start_time_ticks = (int(word) for word in file.read_text().split())
    except (OSError, ValueError):
        return None
    return pid, start_time_ticks


def _end_hung(file: Path) -> None:
    """Nothing passes through it any more, and it would hold what it has for ever."""
    if (noted := _noted(file)) is not None and (pidfd := open_process(*noted)) is not None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """The control socket, root's alone, in the place of an earlier one."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}{_SUFFIX}")
    new.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.bind(str(new))
        new.chmod(0o600)
        control.listen(16)
        new.rename(path)
        yield control


def _spawn(control: socket.socket, log_file: Path) -> int:
    """In a session of its own: it outlives us."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    output = os.open(log_file, flags, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", MODULE, str(log_file.parent)],
            {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, control.fileno(), _CONTROL_FD),
            ],
            setsid=True,
        )
    finally:
        os.close(output)
        os.close(nothing)
