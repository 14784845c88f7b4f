"""Connections to a guest's agent: to itself, or through it to Docker.

The guest agent has a thread for each connection, 512 at most.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.tracing import Trace

from warmboot.docker.place import Place
from warmboot.host.guest.guest_socket import open_guest_socket
from warmboot.model.errors import GuestUnreachable, NetworkError, TooManySessions
from warmboot.model.vm import GuestAddress

DOCKER_API_VERSION = "v1.44"
DOCKER_CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 60.0

ANSWER_TIMEOUT_S = 60.0
"""How long Docker in a guest may take to say how a container is."""


class GuestConnection(ResponseHandler):
    """Tells a session that its output has ended, while its input still waits to be sent.

    The library tells it when the connection is closed, which waits for that input to be taken.
    """

    def eof_received(self) -> None:
        super().eof_received()
        if self._payload_parser is not None:
            self._payload_parser.feed_eof()


class GuestConnector(aiohttp.BaseConnector):
    """Connections to one port of one guest."""

    def __init__(
        self, address: GuestAddress, keep_alive_s: float, connect_timeout_s: float, limit: int
    ) -> None:
        super().__init__(keepalive_timeout=keep_alive_s, limit=limit)
        self._connection = functools.partial(GuestConnection, loop=self._loop)
        self._address = address
        self._connect_timeout_s = connect_timeout_s

    async def _create_connection(
        self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        try:
            connected = await open_guest_socket(self._address, self._connect_timeout_s)
            _, protocol = await self._loop.create_connection(self._connection, sock=connected)
        except NetworkError as error:
            why = ": ".join(part for part in (error.brief, error.details) if part)
            refused = ConnectionRefusedError(why)
            raise aiohttp.ClientConnectorError(req.connection_key, refused) from error
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return protocol


def docker_in_guest(vm_id: str, address: GuestAddress, token: str) -> Place:
    """Docker in a guest, which its agent leads to whoever has the token."""
    return Place(
        connect=lambda limit: GuestConnector(
            address, KEEP_ALIVE_S, DOCKER_CONNECT_TIMEOUT_S, limit
        ),
        unavailable=GuestUnreachable,
        name=f"Docker in the VM {vm_id}",
        remedy="try again in a moment; if this continues, `warmboot logs --boot` may say why; "
        "`warmboot rm -f` removes the container whatever its guest does",
        disk="the VM's disk",
        make_room="use a smaller image, or one that writes less",
        answer_timeout_s=ANSWER_TIMEOUT_S,
        headers={"Authorization": f"Bearer {token}"},
        api_version=DOCKER_API_VERSION,
    )


class Room:
    """Room for ``most`` things of a kind, whose plural is ``what``, in one VM."""

    def __init__(self, vm_id: str, most: int, what: str) -> None:
        self._vm_id = vm_id
        self._most = most
        self._what = what
        self._taken = 0

    @property
    def is_empty(self) -> bool:
        return self._taken == 0

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Take room for one; ``TooManySessions``, at once, if there is none."""
        if self._taken >= self._most:
            raise TooManySessions(
                "too many sessions are open in this container",
                details=f"{self._vm_id} has {self._taken} {self._what}, which is the maximum",
                resolution="close some of them, then try again; inspect, stop, kill and rm are "
                "not limited",
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
