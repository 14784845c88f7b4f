"""uvicorn's HTTP and WebSocket protocols, with limits of time and number around them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from http import HTTPStatus
from typing import Any, cast

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from warmboot.api.http.connections import Connections, Held, Phase
from warmboot.api.http.exchange import Exchange, raw_refusal, too_many_connections
from warmboot.api.http.parser import StrictConnection
from warmboot.api.middleware.auth import ESTABLISHED
from warmboot.api.middleware.sock_diag import ESTABLISHED as TCP_ESTABLISHED
from warmboot.api.problems import TooSlow
from warmboot.model.errors import WarmbootError

log = structlog.get_logger(__name__)

KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, KEEPALIVE_PROBES = 60, 20, 3


class HttpConfig(uvicorn.Config):
    """What both protocols are made from."""

    def __init__(
        self, app: ASGIApp, connections: Connections, always_open: frozenset[str], **options: Any
    ) -> None:
        super().__init__(
            app,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            timeout_keep_alive=connections.limits.idle_s,
            **options,
        )
        self.held_connections = connections
        self.always_open = always_open


class HttpProtocol(H11Protocol):
    def __init__(self, config: HttpConfig, *arguments: Any, **named: Any) -> None:
        super().__init__(config, *arguments, **named)
        self._all = config.held_connections
        self._held: Held | None = None
        self._served = cast(ASGIApp, self.app)
        self.app = cast(Any, self._exchange)
        self.conn = StrictConnection()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        notice_dead_peers(self.transport)
        self._held = self._all.admit(self.transport, self.loop.time())
        if self._held is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.forget(self.transport)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._settle_phase()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle_phase()

    def _settle_phase(self) -> None:
        if self._held is None or self._held.phase is Phase.SESSION:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            phase = Phase.REQUEST
        elif self.cycle is None or self.conn.trailing_data[0]:
            phase = Phase.HEAD
        else:
            phase = Phase.IDLE
        self._held.enter(phase, self.loop.time())

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle, held = self.cycle, self._held
        if held is None:
            return
        note_our_end(scope, self.transport)
        exchange = Exchange(
            self._served,
            held,
            self._all.limits,
            lambda: not cycle.more_body,
            cast(HttpConfig, self.config).always_open,
        )
        await exchange(scope, receive, send)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        if self._held is None or self._held.surplus:
            self.refuse(503, too_many_connections())
            return
        self._held.enter(Phase.SESSION, self.loop.time())
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request whose head h11, or our own look at the head, has found to be wrong."""
        refusal = getattr(self.conn, "refusal", None)
        reason = str(refusal) if refusal is not None else msg
        status = refusal.error_status_hint if refusal is not None else 400
        self.refuse(
            status,
            WarmbootError(
                "this is not a valid HTTP request",
                details=reason,
                resolution="send a request that every program reads in the same way (RFC 9112)",
            ),
            code="malformed-request",
        )

    def end_slow_head(self) -> None:
        """A client that has sent a part of a head is told; one that has sent nothing knows."""
        log.warning("a request's head did not come in time, and its connection was closed")
        if not self.conn.trailing_data[0]:
            self.transport.close()
            return
        limit_s = self._all.limits.head_s
        error = TooSlow(
            f"the head of the request did not arrive within {limit_s:g} s",
            resolution="send it again",
        )
        self.refuse(408, error)

    def refuse(self, status: int, error: WarmbootError, code: str | None = None) -> None:
        """Answer, if nothing was answered yet, and end the connection."""
        begun = self.cycle is not None and (
            self.cycle.response_started and not self.cycle.response_complete
        )
        if not begun and not self.transport.is_closing():
            self.transport.write(raw_refusal(HTTPStatus(status), error, code=code or error.code))
        self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    def __init__(self, config: HttpConfig, *arguments: Any, **named: Any) -> None:
        super().__init__(config, *arguments, **named)
        self._served = cast(ASGIApp, self.app)
        self.app = cast(Any, self._with_our_end)

    async def _with_our_end(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; that a client was refused, or has gone, is no error of it.

        uvicorn takes a handshake that has ended otherwise than by acceptance for one that was
        forgotten, and what an application says of a client that has gone for a fault.
        """
        note_our_end(scope, self.transport)
        with contextlib.suppress(ClientDisconnected, WebSocketDisconnect):
            await self._served(scope, receive, send)
        if self.close_sent or self.transport.is_closing():
            self.handshake_complete = True

    async def send(self, message: Any) -> None:
        if self.transport.is_closing() and not (self.handshake_complete or self.initial_response):
            raise ClientDisconnected
        await super().send(message)

    def connection_lost(self, exc: Exception | None) -> None:
        cast(HttpConfig, self.config).held_connections.forget(self.transport)
        super().connection_lost(exc)


def note_our_end(scope: Scope, transport: asyncio.BaseTransport) -> None:
    """Let the application ask whether this connection is established still, at our end."""
    found = transport.get_extra_info("socket")
    scope.setdefault("extensions", {})[ESTABLISHED] = lambda: _is_established(found)


def _is_established(found: Any) -> bool:
    if found is None or found.fileno() < 0:
        return False
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    try:
        state = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except OSError:
        return False
    return bool(state[0] == TCP_ESTABLISHED)


def notice_dead_peers(transport: asyncio.Transport) -> None:
    """Let the kernel ask a TCP peer that is silent for long whether it is still there."""
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY_S)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
