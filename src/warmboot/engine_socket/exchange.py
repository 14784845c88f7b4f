"""One request and its answer, passed between a client and dockerd.

body ──▶ dockerd      its end by the client is passed on: dockerd gives up what nobody waits for
client ◀── answer     chunk by chunk; or held until somebody was told of it
                      101, attach …: from here on bytes pass both ways, to the end
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import h11

from warmboot.engine_socket.docker_form import (
    Headers,
    content_type,
    last_words,
    turns_into_stream,
)
from warmboot.engine_socket.guest_connections import GuestConnection
from warmboot.engine_socket.limits import MOST_HELD_BYTES
from warmboot.engine_socket.relay import Stream, relay
from warmboot.system.concurrency import end, race

_SWITCHING_PROTOCOLS = 101

Answered = Callable[[int, bytes], Awaitable[bytes | None]]
"""Told of a whole answer, its status and its body, before the client is: which then gets the body
that is returned, if there is one."""

Lost = Callable[[], str]
"""Why the engine is no more, in words; empty while it is there."""


class GuestLost(Exception):
    """The connection to dockerd broke off."""


class ClientLost(Exception):
    """The client hung up in the middle of something."""


@dataclass(slots=True)
class Client:
    """A connection, and what h11 knows of it."""

    stream: Stream
    http: h11.Connection

    async def tell(self, event: h11.Event) -> None:
        if data := self.http.send(event):
            await self.stream.send(data)


@dataclass(slots=True)
class Exchange:
    """``run`` it with a connection to the guest; again with another one, if nothing was answered.

    ``body`` is sent in the place of the client's. With ``on_answer`` the answer is held until that
    has returned. ``answered``: the client has got a part of an answer, of the content type
    ``kind``.
    """

    client: Client
    request: h11.Request
    lost: Lost
    body: bytes | None = None
    on_answer: Answered | None = None
    guest: GuestConnection = field(init=False)
    answered: bool = False
    kind: str = ""
    _held: list[h11.Event] = field(default_factory=list)
    _held_bytes: int = 0
    _uploaded: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def may_be_repeated(self) -> bool:
        """Nobody has seen it, or would see it twice."""
        return not self.answered and self.body is None and not has_body(self.request)

    @property
    def headers(self) -> Headers:
        """The request's, as it is sent on."""
        headers = list(self.request.headers.raw_items())
        if not any(name.lower() == b"host" for name, _ in headers):  # HTTP/1.0 needs none
            headers.insert(0, (b"Host", b"docker"))
        if self.body is None:
            return headers
        return with_length(headers, self.body)

    async def run(self, guest: GuestConnection, headers: Headers) -> bool:
        """Pass it, with ``headers``; whether another request may follow on the client's side."""
        self.guest = guest
        await self._to_guest(
            h11.Request(method=self.request.method, target=self.request.target, headers=headers)
        )
        if self.body is not None:
            await self._to_guest(h11.Data(data=self.body))
            await self._to_guest(h11.EndOfMessage())
            self._uploaded.set()
        elif self._uploaded.is_set():  # it is repeated, and had no body
            await self._to_guest(h11.EndOfMessage())
        upload = asyncio.create_task(self._upload())
        try:
            return await self._download(upload)
        finally:
            await end(upload)

    async def say_last(self) -> None:
        """It broke off: say so, where its form has room for a word."""
        words = last_words(self.kind, self.lost() or "the stream broke off")
        with contextlib.suppress(h11.LocalProtocolError, ConnectionError):
            if words:
                await self.client.tell(h11.Data(data=words))
                await self.client.tell(h11.EndOfMessage())
        # Else without its proper end: the client sees that it is not whole.

    # -- the request's body --------------------------------------------------------------------

    async def _upload(self) -> None:
        """The body; then see whether the client goes away."""
        http, stream = self.client.http, self.client.stream
        try:
            while not self._uploaded.is_set():
                event = await next_event(http, stream)
                if not isinstance(event, h11.Data | h11.EndOfMessage):
                    raise ClientLost
                await self._to_guest(event)
                if isinstance(event, h11.EndOfMessage):
                    self._uploaded.set()
            if http.trailing_data[0]:
                return  # it has sent more already, which waits for its turn
            more = await stream.read()
            http.receive_data(more)
            if not more:
                self.guest.ended = True
                self.guest.stream.end_sending()
        except GuestLost:
            return  # it may have said why before it closed
        except (ClientLost, h11.RemoteProtocolError):
            self.guest.stream.abort()  # or dockerd would wait for the rest
            raise

    async def _to_guest(self, event: h11.Event) -> None:
        data = self.guest.http.send(event)
        try:
            if data:
                await self.guest.stream.send(data)
        except ConnectionError as error:
            raise GuestLost from error

    # -- the answer ----------------------------------------------------------------------------

    async def _download(self, upload: asyncio.Task[None]) -> bool:
        while True:
            event = await self._from_guest(upload)
            if isinstance(event, h11.InformationalResponse):
                await self.client.tell(event)
                if event.status_code == _SWITCHING_PROTOCOLS:
                    self.kind = content_type(list(event.headers.raw_items()))
                    await self._as_stream(upload)
                    return False
            elif isinstance(event, h11.Response):
                headers = list(event.headers.raw_items())
                self.kind = content_type(headers)
                request, status = self.request, event.status_code
                if turns_into_stream(request.method, request.target, status, headers):
                    await self.client.stream.send(_head(event, headers))
                    await self._as_stream(upload)
                    return False
                await self._tell(
                    h11.Response(status_code=status, headers=headers, reason=event.reason)
                )
            elif isinstance(event, h11.Data | h11.EndOfMessage):
                await self._tell(event)
                if isinstance(event, h11.EndOfMessage):
                    return True

    async def _from_guest(self, upload: asyncio.Task[None]) -> h11.Event:
        cause: Exception | None = None
        try:
            event = await next_event(self.guest.http, self.guest.stream)
        except h11.RemoteProtocolError as error:
            event, cause = h11.ConnectionClosed(), error
        if not isinstance(event, h11.ConnectionClosed):
            return event
        if upload.done() and not upload.cancelled():
            upload.result()  # the client's mistake, or its end
        raise GuestLost from cause

    async def _tell(self, event: h11.Event) -> None:
        """A part of the answer, at once or when somebody has been told of it."""
        if self.on_answer is not None:
            self._held.append(event)
            self._held_bytes += len(event.data) if isinstance(event, h11.Data) else 0
            if self._held_bytes > MOST_HELD_BYTES:
                raise GuestLost
            if not isinstance(event, h11.EndOfMessage):
                return
            response, *body, _ = self._held
            assert isinstance(response, h11.Response)
            said = b"".join(bytes(part.data) for part in body if isinstance(part, h11.Data))
            if (instead := await self.on_answer(response.status_code, said)) is not None:
                self._held = [with_body(response, instead), h11.Data(data=instead), event]
        self.answered = True
        for part in self._held or [event]:
            await self.client.tell(part)

    async def _as_stream(self, upload: asyncio.Task[None]) -> None:
        self.answered = True
        await race(self._uploaded.wait(), asyncio.wait({upload}))
        await end(upload)
        client, guest = self.client.stream, self.guest.stream
        early, client_ended = self.client.http.trailing_data
        if early:
            with contextlib.suppress(ConnectionError):
                await guest.send(early)
        if client_ended:
            guest.end_sending()
        said, _ = self.guest.http.trailing_data
        if said:
            await client.send(said)
        await relay(client, guest, self._last_words)

    def _last_words(self) -> bytes:
        lost = self.lost()
        return last_words(self.kind, lost) if lost else b""


def with_length(headers: Headers, body: bytes) -> Headers:
    framing = (b"content-length", b"transfer-encoding", b"expect")
    kept = [(name, value) for name, value in headers if name.lower() not in framing]
    return [*kept, (b"Content-Length", str(len(body)).encode())]


def with_body(answer: h11.Response, body: bytes) -> h11.Response:
    headers = with_length(list(answer.headers.raw_items()), body)
    return h11.Response(status_code=answer.status_code, headers=headers, reason=answer.reason)


def has_body(request: h11.Request) -> bool:
    names = {name for name, _ in request.headers}
    lengths = [value for name, value in request.headers if name == b"content-length"]
    return b"transfer-encoding" in names or any(length != b"0" for length in lengths)


async def next_event(http: h11.Connection, stream: Stream) -> h11.Event:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await stream.read())
    if isinstance(event, type):  # PAUSED: there is nothing to come any more
        raise ClientLost
    return event


def _head(answer: h11.Response, headers: Headers) -> bytes:
    """As it came: h11 would frame what follows."""
    lines = [f"HTTP/1.1 {answer.status_code} ".encode() + bytes(answer.reason)]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"
