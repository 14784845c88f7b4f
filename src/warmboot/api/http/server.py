"""The HTTP server: uvicorn with our protocol, on TCP and Unix sockets alike."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

GRACEFUL_SHUTDOWN_S = 5
BACKLOG = 1024


class HttpServer(uvicorn.Server):
    """Serves ``app`` until SIGINT or SIGTERM.

    ``await server.serve()`` listens on ``host`` and ``port``; ``await server.serve(sockets)`` on
    listening sockets that are there already.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        graceful_shutdown_s: int = GRACEFUL_SHUTDOWN_S,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # who is root goes by the connection, not by what it says
                ws="websockets-sansio",
                backlog=BACKLOG,
                timeout_graceful_shutdown=graceful_shutdown_s,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn ends the process by the signal that stopped it; we have VMs to let go of."""
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
