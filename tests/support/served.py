"""A manager with its API on a real socket, in this process, over a storage of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from tests.support.dockerd import CRIU_WRAPPER
from tests.support.eventually import eventually
from tests.support.ports import remove_socket
from tests.support.serving import serving

from warmboot.api.app import create_app
from warmboot.bootstrap import service
from warmboot.bootstrap.service import Running
from warmboot.client import Client
from warmboot.settings import Settings

_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    manager: Running
    client: Client


def worker_settings(storage: Path, engine: Path, port: int, **more: Any) -> Settings:
    """Settings of a manager whose workers run on ``engine``; VMs are simulated."""
    return Settings(
        storage_root=storage,
        host="127.0.0.1",
        port=port,
        hypervisor="simulated",
        docker_host=f"unix://{engine}",
        criu_wrapper=CRIU_WRAPPER,
        **more,
    )


@contextlib.asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Served]:
    """As ``warmboot serve``; on leaving it stops as that does on a signal."""
    url = f"http://127.0.0.1:{settings.port}"
    async with service.running(settings) as manager:
        app = create_app(
            manager.services,
            tokens=settings.tokens,
            idempotency=manager.store.idempotency,
            worker_of=manager.tokens.owner,
        )
        async with (
            serving(app, port=settings.port),
            Client(url, next(iter(settings.tokens), None)) as client,
        ):
            yield Served(url, manager, client)


class ServingProcess(Protocol):
    def kill(self) -> None:
        """``ProcessLookupError`` if it has ended."""

    async def wait(self) -> int:
        """Its exit code."""


Begin = Callable[[dict[str, str]], Awaitable[ServingProcess]]
"""Start a process that serves, with these variables in its environment."""


async def begin_warmboot_serve(environment: dict[str, str]) -> ServingProcess:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "warmboot.cli", "serve"),
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@contextlib.asynccontextmanager
async def served_by_process(
    settings: Settings, begin: Begin = begin_warmboot_serve
) -> AsyncIterator[tuple[Client, ServingProcess]]:
    """A process serves ``settings``; on leaving it is ended by SIGKILL."""
    environment = {
        "MANAGER_STORAGE_ROOT": str(settings.storage_root),
        "MANAGER_PORT": str(settings.port),
        "MANAGER_HYPERVISOR": "simulated",
        "MANAGER_DOCKER_HOST": settings.docker_host,
        "MANAGER_CRIU_WRAPPER": str(settings.criu_wrapper),
    }
    process = await begin(environment)
    url = f"http://127.0.0.1:{settings.port}"
    try:
        async with httpx.AsyncClient(timeout=60) as http:

            async def healthy() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return (await http.get(f"{url}/healthz")).is_success
                return False

            await eventually(healthy, "the manager answers", _START_TIMEOUT_S)
        async with Client(url) as client:
            yield client, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        remove_socket(settings.port)
