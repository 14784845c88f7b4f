"""What is no clean HTTP is refused before anything is done, and the connection ends with it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import pytest
from tests.support.fake_services import FakeServices
from tests.support.serving import port_of, serving

from warmboot.api import create_app
from warmboot.api.http.limits import HttpLimits

HOST = b"Host: 127.0.0.1\r\n"
BODY = b'{"image":"busybox"}'
CREATE = (
    b"POST /v1/containers HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
)


@pytest.fixture
async def port(fakes: FakeServices) -> AsyncIterator[int]:
    """Of a server that would keep a connection open for longer than any test takes."""
    limits = HttpLimits(idle_s=3600)
    async with serving(create_app(fakes.services), limits=limits) as server:
        yield port_of(server)


async def exchange(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


SMUGGLED = {
    "both lengths": b"POST /v1/archives HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, the other order": b"POST /v1/archives HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 0\r\nContent-Length: 9\r\n\r\n",
    "one length twice": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0, 0\r\n\r\n",
    "a signed length": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /x HTTP/1.0\r\n"
    + HOST
    + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked by another name": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: 127.0.0.1\n\n",
    "one bare line feed": b"GET /healthz HTTP/1.1\r\nX: y\nHost: 127.0.0.1\r\n\r\n",
    "a bare line feed at the end": b"GET /healthz HTTP/1.1\r\n" + HOST + b"\n",
    "a bare carriage return": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n",
    "a folded line": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n",
    "a space before the colon": b"GET /healthz HTTP/1.1\r\n" + HOST + b"Content-Length : 0\r\n\r\n",
    "a control character": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: a\x01b\r\n\r\n",
    "a length among the trailers": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 7\r\n\r\n",
    "a bare line feed in a chunk's extension": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\n",
    "a carriage return in a chunk's extension": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n2;a\rb\r\nxx\r\n0\r\n\r\n",
    "a negative chunk": b"POST /x HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nxx\r\n0\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "another version": b"GET /healthz HTTP/1.7\r\n" + HOST + b"\r\n",
    "two spaces": b"GET  /healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "a whole URL": b"GET http://127.0.0.1/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tunnel": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a fragment": b"GET /healthz#x HTTP/1.1\r\n" + HOST + b"\r\n",
    "half a percent sign": b"GET /v1/containers/%4 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a NUL in the path": b"GET /v1/containers/a%00b HTTP/1.1\r\n" + HOST + b"\r\n",
    "no UTF-8 in the path": b"GET /v1/containers/a%ffb HTTP/1.1\r\n" + HOST + b"\r\n",
    "many fields": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 101 + b"\r\n",
    "a long head": b"GET /healthz HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 17000 + b"\r\n\r\n",
    "a WebSocket with a body": b"GET /v1/containers/c/attach HTTP/1.1\r\n"
    + HOST
    + b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 4\r\n\r\nxxxx",
}


@pytest.mark.parametrize("name", SMUGGLED)
async def test_what_two_programs_could_read_differently_is_refused(
    port: int, fakes: FakeServices, name: str
) -> None:
    answer = await exchange(port, SMUGGLED[name] + CREATE)
    assert answer.count(b"HTTP/1.1 ") == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] in {b"400", b"431", b"501", b"505"}
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert problem["code"] == "malformed-request"
    assert problem["detail"]
    assert not fakes.containers.rows


async def test_a_refused_head_in_small_pieces_is_refused_too(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (b"GET /healthz HTTP/1.1\r", b"\nHost: 127.0.0.1\r\nX: y", b"\nZ: 1"):
        writer.write(piece)
        await writer.drain()
    async with asyncio.timeout(60):
        assert b" 400 " in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2;name=value\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"GET /healthz?a=%zz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    ],
)
async def test_clean_requests_are_answered(port: int, sent: bytes) -> None:
    answer = await exchange(port, sent)
    assert answer.count(b"HTTP/1.1 ") == sent.count(b" HTTP/1.")
    assert b" 400 " not in answer


async def test_two_requests_at_once_are_answered_in_turn(port: int, fakes: FakeServices) -> None:
    last = b"GET /healthz HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    answer = await exchange(port, CREATE + CREATE + last)
    assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"201", b"201", b"200"]
    assert len(fakes.containers.rows) == 2


async def test_garbage_after_the_head_of_an_upload_ends_it(port: int) -> None:
    answer = await exchange(
        port,
        b"POST /v1/archives HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    )
    assert b" 400 " in answer
