"""One client's connection: every request on it is seen, and passed to the engine's dockerd.

    head ─▶ engine ready? ─▶ is it one that the host must know of? ─▶ exchange ─▶ next request
                                create, start: see port_keeper

h11 finds where a request's head and body end (for answers see ``guest.answers``). An engine that is
not there, or is lost before it has answered, is told as Docker tells errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import h11

from warmboot.engine_socket.docker_form import (
    Refusal,
    configuration,
    creates,
    is_the_agents,
    makes_volume,
    starts,
    volume,
    with_login,
)
from warmboot.engine_socket.engine_identity import (
    as_engines,
    asks_who_it_is,
    looks_back,
    since_hand_over,
)
from warmboot.engine_socket.exchange import (
    Answered,
    Client,
    ClientLost,
    Exchange,
    GuestLost,
    next_event,
)
from warmboot.engine_socket.guest.guest_connections import GuestConnections
from warmboot.engine_socket.host_folders import check_volume, checked
from warmboot.engine_socket.limits import (
    BODY_TIMEOUT_S,
    HEAD_TIMEOUT_S,
    LINGER_S,
    LOOK_TIMEOUT_S,
    MOST_CREATE_BYTES,
    MOST_HEAD_BYTES,
)
from warmboot.engine_socket.port_keeper import PortKeeper
from warmboot.engine_socket.relay import Stream
from warmboot.model.conventions.registry_logins import RegistryLogin
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.system.concurrency import in_own_thread


class Engine(Protocol):
    """What a conversation needs of the engine that it is with."""

    async def guest(self, target: bytes) -> GuestConnections:
        """Wait until it is there for requests of this target. ``Refusal``."""
        ...

    def under_way(self, target: bytes) -> AbstractContextManager[None]:
        """While a request of this target waits, or is passed."""
        ...

    @property
    def lost(self) -> str:
        """Why it is no more, in words; empty while it is there."""
        ...

    @property
    def id(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]:
        """The engine's, and the paths of the sockets at which it is reached."""
        ...

    @property
    def folders(self) -> Sequence[HostFolder]:
        """Those of the host that its containers can mount."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Which engine it is, in what ``docker info`` tells."""
        ...

    @property
    def ports(self) -> PortKeeper: ...

    @property
    def logins(self) -> Sequence[RegistryLogin]:
        """What its pulls, pushes and builds are sent with."""
        ...

    @property
    def bodies(self) -> asyncio.Semaphore:
        """Room for requests whose bodies are kept."""
        ...

    @property
    def looks(self) -> asyncio.Semaphore:
        """Room for threads that look at what is to be mounted."""
        ...


Find = Callable[[], Awaitable[Engine]]
"""The engine that a request is for, which may be another one than the request before it was for.
``Refusal``."""


WithBody = Callable[[h11.Request, GuestConnections, bytes], Awaitable[bool]]
"""Answers a request whose body was read; whether another request may follow."""


class Conversation:
    """``run`` it to its end; it closes the connection."""

    _engine: Engine
    """That of the request under way."""

    def __init__(self, find: Find, stream: Stream) -> None:
        self._find = find
        self._stream = stream
        self._client = Client(stream)
        self.silent_since_s: float | None = asyncio.get_running_loop().time()
        """Since when the client has nothing under way; ``None`` while it has."""
        self.is_last = False
        """The request under way, or the next one: a client that has more connects again."""

    async def run(self) -> None:
        try:
            await self._stream.begin()
            while (request := await self._next_request()) is not None:
                if not await self._answer(request):
                    return
                if self.is_last and not self._client.http.trailing_data[0]:
                    return
        except Refusal as refusal:
            await self._refuse(refusal)
        except h11.RemoteProtocolError as error:
            why, _, _ = str(error).partition(": bytearray(")  # it quotes, as Python writes it
            await self._refuse(Refusal(error.error_status_hint, f"bad request: {why}"))
        except (ClientLost, ConnectionError, h11.LocalProtocolError):
            return  # the last: dockerd has answered something that cannot be passed on as HTTP
        finally:
            await self._stream.close()

    def abort(self) -> None:
        self._stream.abort()

    async def _next_request(self) -> h11.Request | None:
        """The next head; ``None`` when the client is done."""
        self.silent_since_s = asyncio.get_running_loop().time()
        http = self._client.http
        if http.trailing_data[0] == b"":
            http.receive_data(await self._stream.read())
        self.silent_since_s = None
        event = http.next_event()
        if event is h11.NEED_DATA:
            try:
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    event = await next_event(http, self._stream)
            except TimeoutError:
                raise Refusal(408, "the request took too long to arrive") from None
        if not isinstance(event, h11.Request):
            return None
        size = len(event.target) + sum(len(n) + len(v) for n, v in event.headers.raw_items())
        if size > MOST_HEAD_BYTES:
            raise Refusal(431, f"the head is longer than {MOST_HEAD_BYTES} bytes")
        names = {name for name, _ in event.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            raise Refusal(400, "bad request: it has two lengths, and needs one")
        if event.http_version not in (b"1.0", b"1.1"):
            raise Refusal(505, "only versions 1.0 and 1.1 of HTTP are spoken here")
        return event

    async def _answer(self, request: h11.Request) -> bool:
        """Whether another request may follow."""
        if is_the_agents(request.target):
            raise Refusal(404, "page not found")  # as dockerd says it
        self._engine = await self._find()
        with self._engine.under_way(request.target):
            return await self._answer_in_time(request)

    async def _answer_in_time(self, request: h11.Request) -> bool:
        connections = await self._engine.guest(request.target)
        if creates(request.method, request.target):
            return await self._in_turn(self._create, request, connections)
        if makes_volume(request.method, request.target):
            return await self._in_turn(self._make_volume, request, connections)
        if (reference := starts(request.method, request.target)) is not None:
            return await self._start(request, connections, reference)
        if asks_who_it_is(request.method, request.target):
            return await self._pass(request, connections, on_answer=self._as_engine)
        if looks_back(request.method, request.target):
            target = await since_hand_over(connections, request.target)
            headers = list(request.headers.raw_items())
            request = h11.Request(method=request.method, target=target, headers=headers)
        return await self._pass(self._with_login(request), connections)

    def _with_login(self, request: h11.Request) -> h11.Request:
        if not (logins := self._engine.logins):
            return request
        headers = with_login(logins, request.target, list(request.headers.raw_items()))
        if headers is None:
            return request
        if sum(len(name) + len(value) for name, value in headers) > MOST_HEAD_BYTES:
            raise Refusal(431, f"with the engine's logins the head is over {MOST_HEAD_BYTES} bytes")
        return h11.Request(method=request.method, target=request.target, headers=headers)

    async def _as_engine(self, _: int, answer: bytes) -> bytes | None:
        return as_engines(answer, self._engine.id, self._engine.labels)

    async def _in_turn(
        self, answer: WithBody, request: h11.Request, connections: GuestConnections
    ) -> bool:
        """Read the body of a request, for which there is room, and have it answered."""
        bodies = self._engine.bodies
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                await bodies.acquire()
        except TimeoutError:
            raise Refusal(503, "too much is being created at a time; try again") from None
        try:
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    body = await self._body()
            except TimeoutError:
                raise Refusal(408, "the request took too long to arrive") from None
            return await answer(request, connections, body)
        finally:
            bodies.release()

    async def _make_volume(
        self, request: h11.Request, connections: GuestConnections, body: bytes
    ) -> bool:
        check_volume(volume(body), self._engine.names[0])
        return await self._pass(request, connections, body)

    async def _create(
        self, request: h11.Request, connections: GuestConnections, body: bytes
    ) -> bool:
        ports = self._engine.ports
        if (found := configuration(body)) is None:
            return await self._pass(request, connections, body)  # dockerd says what is wrong
        given, replaced = found
        config = await self._with_folders(given)
        if replaced or config is not given:
            body = json.dumps(config).encode()
        filled = await ports.before_create(connections, config)
        if filled is None:
            return await self._pass(request, connections, body)
        body, reservation = filled
        decided = False

        async def answered(status: int, answer: bytes) -> None:
            nonlocal decided
            decided = True
            await ports.after_create(reservation, status, answer)

        try:
            return await self._pass(request, connections, body, answered)
        finally:
            if not decided:
                await ports.after_create(reservation, 0, b"")

    async def _with_folders(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        folders, names = self._engine.folders, self._engine.names
        if not folders:
            return checked(config, folders, *names)
        loop, looks = asyncio.get_running_loop(), self._engine.looks

        def look() -> Mapping[str, Any]:
            try:
                return checked(config, folders, *names)
            finally:
                loop.call_soon_threadsafe(looks.release)

        # A link may lead to a file system that does not answer: nobody else's request waits then.
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                await looks.acquire()
                try:
                    looking = in_own_thread(look, "folders")
                except RuntimeError:  # there is no thread to be had
                    looks.release()
                    raise
                return await looking
        except TimeoutError:
            words = "a file system of this machine, to which a mount leads, does not answer"
            raise Refusal(503, words) from None

    async def _start(
        self, request: h11.Request, connections: GuestConnections, reference: str
    ) -> bool:
        ports = self._engine.ports
        container = await ports.before_start(connections, reference)
        if container is None:
            return await self._pass(request, connections)

        async def answered(_: int, __: bytes) -> None:
            await ports.after_start(connections, container)

        return await self._pass(request, connections, on_answer=answered)

    async def _body(self) -> bytes:
        """The request's, whole."""
        body = bytearray()
        if self._client.http.they_are_waiting_for_100_continue:
            await self._client.tell(h11.InformationalResponse(status_code=100, headers=[]))
        while not isinstance(
            event := await next_event(self._client.http, self._stream), h11.EndOfMessage
        ):
            if not isinstance(event, h11.Data):
                raise ClientLost
            body += event.data
            if len(body) > MOST_CREATE_BYTES:
                raise Refusal(413, f"the body is longer than {MOST_CREATE_BYTES} bytes")
        return bytes(body)

    async def _pass(
        self,
        request: h11.Request,
        connections: GuestConnections,
        body: bytes | None = None,
        on_answer: Answered | None = None,
    ) -> bool:
        exchange = Exchange(self._client, request, lambda: self._engine.lost, body, on_answer)
        guest = await connections.take()
        try:
            try:
                again = await exchange.run(guest, connections.authorized(guest, exchange.headers))
            except GuestLost:
                # One that was kept may have been closed meanwhile, and nobody has seen the request.
                if not guest.kept or not exchange.may_be_repeated:
                    raise
                await connections.drop(guest)
                guest = await connections.take(fresh=True)
                again = await exchange.run(guest, connections.authorized(guest, exchange.headers))
        except GuestLost:
            if not exchange.answered:
                why = self._engine.lost or "its Docker has closed the connection"
                raise Refusal(502, f"no answer: {why}") from None
            await exchange.say_last()
            return False
        except BaseException:  # cancelled, too; raised again
            guest.stream.abort()
            raise
        finally:
            await connections.give_back(guest)
        if again and not self._client.begin_next():
            await self._linger()  # dockerd has answered before it had read all
            return False
        return again

    # -- what went wrong -----------------------------------------------------------------------

    async def _refuse(self, refusal: Refusal) -> None:
        with contextlib.suppress(h11.LocalProtocolError, ConnectionError):
            await self._client.tell(
                h11.Response(status_code=refusal.status, headers=refusal.headers, reason=b"")
            )
            await self._client.tell(h11.Data(data=refusal.body))
            await self._client.tell(h11.EndOfMessage())
            await self._linger()

    async def _linger(self) -> None:
        """With unread data a close would cut off the answer."""
        self._stream.end_sending()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await self._stream.read():
                    pass
