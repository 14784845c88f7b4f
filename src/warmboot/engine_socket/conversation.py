"""One client's connection: every request on it is seen, and passed to the engine's dockerd.

    head ─▶ engine ready? ─▶ connection to the guest ─▶ body ──▶ dockerd
     ▲                                                            │
     └── next request ◀── answer whole ◀── answer ◀───────────────┤
                                                  101, attach …: bytes both ways, to the end

h11 finds where heads and bodies end, on both sides; bodies pass chunk by chunk. An engine that is
not there, or is lost before it has answered, is told as Docker tells errors.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import h11

from warmboot.engine_socket.docker_form import (
    Headers,
    Refusal,
    content_type,
    last_words,
    turns_into_stream,
)
from warmboot.engine_socket.guest_connections import GuestConnection, GuestConnections
from warmboot.engine_socket.limits import (
    HEAD_TIMEOUT_S,
    LINGER_S,
    MOST_HEAD_BYTES,
)
from warmboot.engine_socket.relay import Stream, relay
from warmboot.system.concurrency import end, race

_SWITCHING_PROTOCOLS = 101


class Engine(Protocol):
    """What a conversation needs of the engine that it is with."""

    async def guest(self, target: bytes) -> GuestConnections:
        """Wait until it is there for requests of this target. ``Refusal``."""
        ...

    @property
    def lost(self) -> str:
        """Why it is no more, in words; empty while it is there."""
        ...


class GuestLost(Exception):
    """The connection to dockerd broke off. ``answered``: the client has got a part of an answer."""


class ClientLost(Exception):
    """The client hung up in the middle of something."""


@dataclass(slots=True)
class _Exchange:
    """A request, and how far it and its answer have come."""

    request: h11.Request
    guest: GuestConnection
    uploaded: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = False
    kind: str = ""

    @property
    def headers(self) -> Headers:
        return list(self.request.headers.raw_items())


class Conversation:
    """``run`` it to its end; it closes the connection."""

    def __init__(self, engine: Engine, client: Stream) -> None:
        self._engine = engine
        self._client = client
        self._http = h11.Connection(h11.SERVER, MOST_HEAD_BYTES)
        self.silent_since_s: float | None = asyncio.get_running_loop().time()
        """Since when the client has nothing under way; ``None`` while it has."""

    async def run(self) -> None:
        try:
            while (request := await self._next_request()) is not None:
                if not await self._answer(request):
                    return
        except Refusal as refusal:
            await self._refuse(refusal)
        except h11.RemoteProtocolError as error:
            await self._refuse(Refusal(error.error_status_hint, f"bad request: {error}"))
        except (ClientLost, ConnectionError):
            return
        finally:
            await self._client.close()

    def abort(self) -> None:
        self._client.abort()

    # -- the request ---------------------------------------------------------------------------

    async def _next_request(self) -> h11.Request | None:
        """The next head; ``None`` when the client is done."""
        self.silent_since_s = asyncio.get_running_loop().time()
        if self._http.trailing_data[0] == b"":
            self._http.receive_data(await self._client.read())
        self.silent_since_s = None
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                event = await _next_event(self._http, self._client)
        except TimeoutError:
            raise Refusal(408, "the request took too long to arrive") from None
        if not isinstance(event, h11.Request):
            return None
        size = len(event.target) + sum(len(n) + len(v) for n, v in event.headers.raw_items())
        if size > MOST_HEAD_BYTES:
            raise Refusal(431, f"the head is longer than {MOST_HEAD_BYTES} bytes")
        return event

    async def _answer(self, request: h11.Request) -> bool:
        """Whether another request may follow."""
        connections = await self._engine.guest(request.target)
        guest = await connections.take()
        exchange = _Exchange(request, guest)
        try:
            while True:
                try:
                    again = await self._exchange(exchange, connections)
                    break
                except GuestLost:
                    # A connection that was kept may have been closed meanwhile: nobody has seen
                    # the request then, and it has no body that were lost.
                    if not guest.used or exchange.answered or self._has_body(request):
                        raise
                    await connections.drop(guest)
                    guest = exchange.guest = await connections.take(fresh=True)
        except GuestLost:
            await self._tell_lost(exchange)
            return False
        except BaseException:  # cancelled, too; raised again
            guest.stream.abort()
            raise
        finally:
            await connections.give_back(guest)
        if not again or self._http.our_state is not h11.DONE:
            return False
        if self._http.their_state is not h11.DONE:  # dockerd has answered before it had read all
            await self._linger()
            return False
        self._http.start_next_cycle()
        return True

    def _has_body(self, request: h11.Request) -> bool:
        names = {name for name, _ in request.headers}
        lengths = [value for name, value in request.headers if name == b"content-length"]
        return b"transfer-encoding" in names or any(length != b"0" for length in lengths)

    async def _exchange(self, exchange: _Exchange, connections: GuestConnections) -> bool:
        """Pass a request and its answer; whether the connection can go on."""
        request, guest = exchange.request, exchange.guest
        head = h11.Request(
            method=request.method,
            target=request.target,
            headers=connections.authorized(guest, exchange.headers),
        )
        await self._to_guest(exchange, head)
        upload = asyncio.create_task(self._upload(exchange))
        try:
            return await self._download(exchange, upload)
        finally:
            await end(upload)

    async def _upload(self, exchange: _Exchange) -> None:
        """The body; then see whether the client goes away."""
        guest = exchange.guest
        try:
            while not exchange.uploaded.is_set():
                event = await _next_event(self._http, self._client)
                if not isinstance(event, h11.Data | h11.EndOfMessage):
                    raise ClientLost
                await self._to_guest(exchange, event)
                if isinstance(event, h11.EndOfMessage):
                    exchange.uploaded.set()
            if self._http.trailing_data[0]:
                return  # it has sent more already, which waits for its turn
            more = await self._client.read()
            self._http.receive_data(more)
            if not more:
                guest.ended = True
                guest.stream.end_sending()  # dockerd gives up what nobody waits for
        except GuestLost:
            return  # it may have said why before it closed
        except (ClientLost, h11.RemoteProtocolError):
            guest.stream.abort()  # or dockerd would wait for the rest
            raise

    async def _to_guest(self, exchange: _Exchange, event: h11.Event) -> None:
        data = exchange.guest.http.send(event)
        try:
            if data:
                await exchange.guest.stream.send(data)
        except ConnectionError as error:
            raise GuestLost from error

    # -- the answer ----------------------------------------------------------------------------

    async def _download(self, exchange: _Exchange, upload: asyncio.Task[None]) -> bool:
        while True:
            event = await self._from_guest(exchange, upload)
            if isinstance(event, h11.InformationalResponse):
                await self._to_client(event)
                if event.status_code == _SWITCHING_PROTOCOLS:
                    exchange.answered = True
                    exchange.kind = content_type(list(event.headers.raw_items()))
                    await self._as_stream(exchange, upload)
                    return False
            elif isinstance(event, h11.Response):
                exchange.answered = True
                headers = list(event.headers.raw_items())
                exchange.kind = content_type(headers)
                request, status = exchange.request, event.status_code
                if turns_into_stream(request.method, request.target, status, headers):
                    await self._client.send(_head(event, headers))
                    await self._as_stream(exchange, upload)
                    return False
                await self._to_client(
                    h11.Response(status_code=status, headers=headers, reason=event.reason)
                )
            elif isinstance(event, h11.Data | h11.EndOfMessage):
                await self._to_client(event)
                if isinstance(event, h11.EndOfMessage):
                    return True

    async def _from_guest(self, exchange: _Exchange, upload: asyncio.Task[None]) -> h11.Event:
        guest = exchange.guest
        try:
            event = await _next_event(guest.http, guest.stream)
        except h11.RemoteProtocolError as error:
            event = h11.ConnectionClosed()
            cause: Exception | None = error
        else:
            cause = None
        if not isinstance(event, h11.ConnectionClosed):
            return event
        if upload.done() and not upload.cancelled():
            upload.result()  # the client's mistake, or its end
        raise GuestLost from cause

    async def _to_client(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            await self._client.send(data)

    async def _as_stream(self, exchange: _Exchange, upload: asyncio.Task[None]) -> None:
        """From here on bytes pass both ways."""
        await race(exchange.uploaded.wait(), asyncio.wait({upload}))
        await end(upload)
        guest = exchange.guest
        early, client_ended = self._http.trailing_data
        if early:
            await self._passed(guest.stream.send, early)
        if client_ended:
            guest.stream.end_sending()
        said, _ = guest.http.trailing_data
        if said:
            await self._client.send(said)
        await relay(self._client, guest.stream, lambda: self._last_words(exchange))

    async def _passed(self, send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            await send(data)

    # -- what went wrong -----------------------------------------------------------------------

    async def _tell_lost(self, exchange: _Exchange) -> None:
        if not exchange.answered:
            why = self._engine.lost or "its Docker has closed the connection"
            raise Refusal(502, f"no answer: {why}") from None
        with contextlib.suppress(h11.LocalProtocolError, ConnectionError):
            if words := last_words(exchange.kind, self._engine.lost or "the stream broke off"):
                await self._to_client(h11.Data(data=words))
                await self._to_client(h11.EndOfMessage())
        # Else without its proper end: the client sees that it is not whole.

    def _last_words(self, exchange: _Exchange) -> bytes:
        lost = self._engine.lost
        return last_words(exchange.kind, lost) if lost else b""

    async def _refuse(self, refusal: Refusal) -> None:
        with contextlib.suppress(h11.LocalProtocolError, ConnectionError):
            await self._to_client(
                h11.Response(status_code=refusal.status, headers=refusal.headers, reason=b"")
            )
            await self._to_client(h11.Data(data=refusal.body))
            await self._to_client(h11.EndOfMessage())
            await self._linger()

    async def _linger(self) -> None:
        """With unread data a close would cut off the answer."""
        self._client.end_sending()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while await self._client.read():
                    pass


async def _next_event(http: h11.Connection, stream: Stream) -> h11.Event:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.read())
    assert not isinstance(event, type) or event is h11.PAUSED
    if event is h11.PAUSED:
        raise ClientLost
    return event  # type: ignore[return-value]


def _head(answer: h11.Response, headers: Headers) -> bytes:
    """As it came: h11 would frame what follows."""
    lines = [f"HTTP/1.1 {answer.status_code} ".encode() + bytes(answer.reason)]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
