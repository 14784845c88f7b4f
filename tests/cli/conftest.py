"""The command line against a real server with fake services.

It runs in this process where it is only asked for its output and its exit code (``cli``), and in
one of its own (``WARMBOOT``) where there are signals or a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.support.command_line import run_here
from tests.support.desks import WARMBOOT
from tests.support.eventually import until
from tests.support.fake_services import FakeServices

from warmboot.api import create_app
from warmboot.api.http.server import HttpServer

ROOT = Path(__file__).parents[2]
__all__ = ["WARMBOOT"]


class Served:
    """A server in a thread with a loop of its own; ``fakes`` are behind it."""

    def __init__(self) -> None:
        self.fakes: FakeServices
        self.loop: asyncio.AbstractEventLoop
        self.url = ""
        self._server: HttpServer
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.fakes = FakeServices()
        app = create_app(self.fakes.services)
        self._server = HttpServer(app, graceful_shutdown_s=1)
        serving = asyncio.create_task(self._server.serve())
        await until(lambda: self._server.started)  # uvicorn has no event for it
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._ready.set()
        await serving

    def stop(self) -> None:
        """It may have been stopped before."""
        with contextlib.suppress(RuntimeError):  # its loop is closed
            self.loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    server.start()
    yield server
    server.stop()


class Cli(Protocol):
    def __call__(
        self, *words: str, stdin: str = "", **more: str
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def env(served: Served) -> dict[str, str]:
    return {**os.environ, "WARMBOOT_URL": served.url, "COLUMNS": "80", "TERM": "xterm"}


@pytest.fixture
def cli(env: dict[str, str]) -> Cli:
    """Run ``warmboot …`` to its end; stdout and stderr apart, no terminal."""

    def run(*words: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return run_here(words, env | more, stdin)

    return run
