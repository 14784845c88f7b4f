"""TCP ports of engines: given at create, with certificates; the front holds them from then on."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.model.errors import Conflict, InvalidRequest
from warmboot.model.tenants.engine import Certificates, Engine, TcpAddress
from warmboot.store import Store
from warmboot.system.on_failure import on_failure


class TcpPorts:
    def __init__(self, store: Store, host: HostAgent) -> None:
        self._store = store
        self._host = host

    @contextlib.asynccontextmanager
    async def taken(self, tcp: TcpAddress | None, engine_id: UUID) -> AsyncIterator[None]:
        """Free for this engine, which has certificates, while the caller stores it.

        ``Conflict`` for what somebody has, ``InvalidRequest`` for what cannot be. One caller at a
        time: two would both find it free.
        """
        if tcp is None:
            yield
            return
        if IPv4Address(tcp.address).is_unspecified:
            raise InvalidRequest(
                f"{tcp.address} is no address that a certificate could name",
                resolution="give the address of this machine at which clients reach it",
            )
        for other in await self._store.engines.list():
            if other.spec.tcp == tcp:
                raise Conflict(
                    f"{tcp} is the engine {other.name}'s",
                    resolution="choose another port, or remove that engine",
                )
        _try(tcp)
        await self._host.certificates.make(str(engine_id), tcp.address)
        async with on_failure(lambda: self._host.certificates.forget(str(engine_id))):
            yield

    async def renew(self, engine: Engine) -> Certificates:
        """New ones. ``NotFound`` where there is no port for them; ``HostError``."""
        certificates, engine_id = self._host.certificates, str(engine.id)
        if engine.spec.tcp is not None:
            await certificates.make(engine_id, engine.spec.tcp.address)
        return await certificates.read(engine_id)


def _try(tcp: TcpAddress) -> None:
    """Bind it for a moment, as the front will."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((tcp.address, tcp.port))
            one.listen()  # two may be bound, if neither of them listens yet
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Conflict(
                    f"port {tcp} is already taken",
                    details=error.strerror or str(error),
                    resolution="choose another port",
                ) from error
            raise InvalidRequest(
                f"{tcp} cannot be listened on",
                details=error.strerror or str(error),
                resolution="use an address of this machine, and a port that the manager may have",
            ) from error
