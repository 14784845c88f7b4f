"""A WebSocket that is refused, or cut before it is one, is no error of the server's."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from tests.api.conftest import Peers
from tests.support.eventually import until
from tests.support.fake_services import FakeServices
from tests.support.serving import port_of, serving
from typing_extensions import override
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from warmboot.api import create_app
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerSpec

UPGRADE = (
    b"GET /v1/containers/c/%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture(autouse=True)
def only_own_garbage() -> Iterator[None]:
    """What an earlier test has left is not looked through, and so is not complained of here."""
    gc.freeze()
    yield
    gc.unfreeze()


class SlowPeers(Peers):
    """Whose answer is waited for, until ``decided``."""

    def __init__(self, why_not: str = "") -> None:
        super().__init__(why_not)
        self.begun, self.decided = asyncio.Event(), asyncio.Event()

    @override
    async def why_not_root(self, client: object, server: object) -> str:
        self.begun.set()
        await self.decided.wait()
        return self.why_not


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]


@pytest.mark.parametrize(("why_not", "status"), [("a stranger", 401), ("", 404)])
async def test_one_that_is_refused_is_told_so_and_logged_as_no_error(
    fakes: FakeServices, caplog: pytest.LogCaptureFixture, why_not: str, status: int
) -> None:
    async with serving(create_app(fakes.services, peers=Peers(why_not))) as server:
        for what in ("exec", "attach"):
            with pytest.raises(InvalidStatus) as refused:
                url = f"ws://127.0.0.1:{port_of(server)}/v1/containers/c/{what}"
                await connect(url, proxy=None)
            assert refused.value.response.status_code == status
    assert errors(caplog) == []


async def hang_up(connection: socket.socket) -> None:
    """With a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def hang_up_politely(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("end", [hang_up, hang_up_politely])
@pytest.mark.parametrize("why_not", ["a stranger", ""])
@pytest.mark.parametrize("what", [b"exec", b"attach"])
async def test_one_that_is_cut_before_it_is_accepted_is_logged_as_no_error(
    fakes: FakeServices,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[socket.socket], Awaitable[None]],
    why_not: str,
    what: bytes,
) -> None:
    await fakes.containers.create(ContainerSpec(name="c", image="busybox", command=("cat",)))
    await fakes.containers.wait("c", Until.RUNNING, 60)
    peers = SlowPeers(why_not)
    async with serving(create_app(fakes.services, peers=peers)) as server:
        connection = socket.create_connection(("127.0.0.1", port_of(server)))
        connection.sendall(UPGRADE % what)
        async with asyncio.timeout(60):
            await peers.begun.wait()
        await end(connection)
        await until(lambda: len(server.held) == 0)  # the server's end tells nobody
        peers.decided.set()
        await until(lambda: not server.server_state.tasks)
    assert errors(caplog) == []


async def test_one_that_was_cut_and_of_whom_the_application_complains_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        try:
            while (await receive())["type"] != "websocket.disconnect":
                pass
            raise WebSocketDisconnect(1006)
        finally:
            told.set()

    async with serving(app) as server:
        connection = socket.create_connection(("127.0.0.1", port_of(server)))
        connection.sendall(UPGRADE % b"exec")
        await hang_up(connection)
        async with asyncio.timeout(60):
            await told.wait()
        await until(lambda: not server.server_state.tasks)
    assert errors(caplog) == []
