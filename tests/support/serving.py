"""An application behind the real HTTP server on a free loopback port, in this loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp
from tests.support.eventually import until

from warmboot.api.http.server import HttpServer


@asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncIterator[HttpServer]:
    """On leaving it stops as ``warmboot serve`` does on a signal."""
    server = HttpServer(app, **{"graceful_shutdown_s": 1, **options})
    task = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)  # uvicorn has no event for it
        yield server
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=60)


def port_of(server: HttpServer) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])
