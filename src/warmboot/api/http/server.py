"""The HTTP server: uvicorn with our protocol, on TCP and Unix sockets alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from warmboot.api.http.connections import Connections
from warmboot.api.http.limits import HttpLimits
from warmboot.api.http.protocol import HttpConfig, HttpProtocol
from warmboot.api.middleware.auth import OPEN_PATHS
from warmboot.api.middleware.body import MAX_FRAME_BYTES

GRACEFUL_SHUTDOWN_S = 5
BACKLOG = 1024


class HttpServer(uvicorn.Server):
    """Serves ``app`` until SIGINT or SIGTERM.

    ``await server.serve()`` listens on ``host`` and ``port``; ``await server.serve(sockets)`` on
    listening sockets that are there already. ``on_listening`` is called once it takes requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: HttpLimits | None = None,
        graceful_shutdown_s: int = GRACEFUL_SHUTDOWN_S,
        on_listening: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_listening = on_listening
        self._exits = asyncio.Event()
        limits = limits or HttpLimits()
        self.held = Connections(limits)
        super().__init__(
            HttpConfig(
                app,
                self.held,
                OPEN_PATHS,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # who is root goes by the connection, not by what it says
                backlog=limits.accepted_at_once,  # so many asyncio accepts in one go
                ws_max_size=MAX_FRAME_BYTES,
                # A pong waits behind data that somebody is slow to take, on either side. Who is
                # gone without a word is noticed by TCP.
                ws_ping_interval=None,
                ws_per_message_deflate=False,
                timeout_graceful_shutdown=graceful_shutdown_s,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.started:
            return
        for server in self.servers:
            for one in server.sockets:
                with socket.socket(fileno=os.dup(one.fileno())) as listener:
                    listener.listen(BACKLOG)  # how many may wait is another matter
        self._on_listening()

    async def on_tick(self, counter: int) -> bool:
        """Enforce the limits once a second; uvicorn calls this ten times a second."""
        if counter % 10 == 0:
            self._enforce(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _enforce(self, now: float) -> None:
        for held in self.held.overdue(now):
            protocol = held.transport.get_protocol()
            if isinstance(protocol, HttpProtocol):
                protocol.end_slow_head()
        self.held.drop_stuck(now)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have a signal end the server, and not the process: there are VMs to let go of first."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
