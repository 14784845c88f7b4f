"""One request and its answer, passed between a client and dockerd.

body ──▶ dockerd      its end by the client is passed on: dockerd gives up what nobody waits for
client ◀── answer     chunk by chunk; or held until somebody was told of it
                      101, attach …: from here on bytes pass both ways, to the end
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import h11

from warmboot.engine_socket.docker_form import (
    Headers,
    content_type,
    last_words,
    turns_into_stream,
)
from warmboot.engine_socket.guest.answers import (
    AnswerHead,
    BadAnswer,
    Body,
    ChunkedBody,
    EndlessBody,
    body_of,
    chunk,
    head_of,
    says_close,
)
from warmboot.engine_socket.guest.guest_connections import GuestConnection
from warmboot.engine_socket.limits import MOST_HEAD_BYTES, MOST_HELD_BYTES, WATCH_AFTER_S
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


class Client:
    """A connection, and what h11 knows of its request."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.SERVER, MOST_HEAD_BYTES)

    async def tell(self, event: h11.Event) -> None:
        if data := self.http.send(event):
            await self.stream.send(data)

    def take_end(self) -> None:
        """Take the end of a request without a body, which has come with its head."""
        if self.http.their_state is h11.SEND_BODY:
            self.http.next_event()

    def begin_next(self) -> bool:
        """Be ready for another request; ``False``: this one has not come to its end."""
        if self.http.their_state is h11.SEND_BODY:
            return False
        # A new one: of an answer that has passed as it was h11 knows nothing.
        more, ended = self.http.trailing_data
        self.http = h11.Connection(h11.SERVER, MOST_HEAD_BYTES)
        if more:
            self.http.receive_data(more)
        if ended:
            self.http.receive_data(b"")
        return True


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
    _answer_body: Body | None = None
    _uploaded: asyncio.Event = field(default_factory=asyncio.Event)
    _upload: asyncio.Task[None] | None = None
    _watch: asyncio.TimerHandle | None = None

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
        method, target = self.request.method, self.request.target
        head = head_of(b"%s %s HTTP/1.1" % (method, target), headers)
        await self._to_guest(head + (self.body or b""))
        if self.body is None and has_body(self.request):
            self._begin_upload()
        else:
            self.client.take_end()
            self._uploaded.set()
            loop = asyncio.get_running_loop()
            self._watch = loop.call_later(WATCH_AFTER_S, self._begin_upload)
        try:
            return await self._download()
        finally:
            await self._end_upload()

    async def say_last(self) -> None:
        """Tell the client why its answer broke off, where the answer's form has room for a word."""
        words = self._words(self.lost() or "the stream broke off")
        with contextlib.suppress(ConnectionError):
            if words and self._answer_body is not None:
                await self.client.stream.send(self._answer_body.words(words))
        # Else without its proper end: the client sees that it is not whole.

    # -- the request's body --------------------------------------------------------------------

    def _begin_upload(self) -> None:
        self._watch = None
        self._upload = asyncio.create_task(self._send_body())

    async def _end_upload(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._upload is not None:
            await end(self._upload)

    async def _send_body(self) -> None:
        """The body; then see whether the client goes away."""
        http, stream = self.client.http, self.client.stream
        chunked = any(name == b"transfer-encoding" for name, _ in self.request.headers)
        try:
            while not self._uploaded.is_set():
                event = await next_event(http, stream)
                if isinstance(event, h11.Data):
                    data = bytes(event.data)
                    await self._to_guest(chunk(data) if chunked else data)
                elif isinstance(event, h11.EndOfMessage):
                    await self._to_guest(head_of(b"0", event.headers) if chunked else b"")
                    self._uploaded.set()
                else:
                    raise ClientLost
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

    async def _to_guest(self, data: bytes) -> None:
        try:
            await self.guest.stream.send(data)
        except ConnectionError as error:
            raise GuestLost from error

    # -- the answer ----------------------------------------------------------------------------

    async def _download(self) -> bool:
        request = self.request
        while True:
            answer = await self._head()
            self.kind = content_type(answer.headers)
            if answer.status == _SWITCHING_PROTOCOLS or turns_into_stream(
                request.method, request.target, answer.status, answer.headers
            ):
                await self._to_client(answer.raw)
                await self._as_stream()
                return False
            if answer.status >= 200:
                break
            await self._to_client(answer.raw)
        body = self._answer_body = self._body_of(answer)
        if self.on_answer is not None:
            await self._pass_held(answer, body, self.on_answer)
        else:
            await self._pass(answer, body)
        stays = answer.keeps_alive and not isinstance(body, EndlessBody)
        return stays and request.http_version != b"1.0" and not says_close(request.headers)

    async def _pass(self, answer: AnswerHead, body: Body) -> None:
        """As it comes, the head with what has come together with it."""
        head, content = answer.raw, None
        if self.request.http_version == b"1.0" and isinstance(body, ChunkedBody):
            head, content = answer.with_headers(without_framing(answer.headers)), list[bytes]()
        async for part in self._parts(answer, body, content):
            if content is not None:  # such a client knows no chunks
                part = b"".join(content)
                content.clear()
            await self._to_client(head + part)
            head = b""

    async def _pass_held(self, answer: AnswerHead, body: Body, told: Answered) -> None:
        """When somebody has been told of it."""
        passed, content, size = [answer.raw], list[bytes](), 0
        async for part in self._parts(answer, body, content):
            passed.append(part)
            size += len(part)
            if size > MOST_HELD_BYTES:
                raise GuestLost
        if (instead := await told(answer.status, b"".join(content))) is not None:
            passed = [answer.with_headers(with_length(answer.headers, instead)), instead]
        await self._to_client(b"".join(passed))

    async def _parts(
        self, answer: AnswerHead, body: Body, content: list[bytes] | None
    ) -> AsyncIterator[bytes]:
        """A body as it comes, first what is there already, be it nothing."""
        data = self.guest.ahead()
        while True:
            try:
                used = body.follow(data, content)
            except BadAnswer as error:
                raise GuestLost from error
            yield data[:used]
            if body.ended:
                if answer.keeps_alive and self._uploaded.is_set():
                    self.guest.over(data[used:])
                return
            if not (data := await self.guest.read()):
                self._look_at_upload()
                if isinstance(body, EndlessBody) and not self.lost():
                    return
                raise GuestLost

    async def _head(self) -> AnswerHead:
        try:
            return await self.guest.head()
        except (BadAnswer, ConnectionError) as error:
            self._look_at_upload()
            raise GuestLost from error

    def _body_of(self, answer: AnswerHead) -> Body:
        try:
            return body_of(answer, self.request.method)
        except BadAnswer as error:
            raise GuestLost from error

    def _look_at_upload(self) -> None:
        """Raise the client's mistake, or its end, where that ended the answer."""
        if (upload := self._upload) is not None and upload.done() and not upload.cancelled():
            upload.result()

    async def _to_client(self, data: bytes) -> None:
        self.answered = True
        await self.client.stream.send(data)

    async def _as_stream(self) -> None:
        if self._upload is not None:
            await race(self._uploaded.wait(), asyncio.wait({self._upload}))
        await self._end_upload()
        client, guest = self.client.stream, self.guest.stream
        early, client_ended = self.client.http.trailing_data
        if early:
            with contextlib.suppress(ConnectionError):
                await guest.send(early)
        if client_ended:
            guest.end_sending()
        if said := self.guest.ahead():
            await client.send(said)
        await relay(client, guest, self._last_words)

    def _last_words(self) -> bytes:
        lost = self.lost()
        return self._words(lost) if lost else b""

    def _words(self, why: str) -> bytes:
        return last_words(self.kind, why, self.request.target)


def with_length(headers: Headers, body: bytes) -> Headers:
    return [*without_framing(headers), (b"Content-Length", str(len(body)).encode())]


def without_framing(headers: Headers) -> Headers:
    framing = (b"content-length", b"transfer-encoding", b"expect")
    return [(name, value) for name, value in headers if name.lower() not in framing]


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
