"""An engine, and an unmodified ``docker`` that uses it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from tests.e2e.conftest import Archive
from tests.support.vms import Ran, Site

TIMEOUT_S = 180.0


@dataclass
class Engine:
    """``host``: how ``docker`` finds it; by its socket, unless it is told."""

    site: Site
    name: str
    host: str = ""

    async def described(self) -> dict[str, Any]:
        (found,) = json.loads((await self.site.cli("engine", "inspect", self.name)).out)
        return dict(found)

    async def environment(self) -> dict[str, str]:
        if not self.host:
            self.host = (await self.described())["docker_host"]
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": "/nonexistent"}

    async def begin(self, *words: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *("docker", *words),
            env=await self.environment(),
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
        )

    async def docker(self, *words: str, stdin: bytes = b"", code: int = 0) -> Ran:
        ran = await Ran.of(await self.begin(*words), stdin, TIMEOUT_S)
        assert ran.code == code, f"docker {' '.join(words)}: {ran}"
        return ran


@contextlib.asynccontextmanager
async def engine_at(
    site: Site, name: str, archive: Archive | None = None, *options: str
) -> AsyncIterator[Engine]:
    await site.cli("engine", "create", *options, name)
    engine = Engine(site, name)
    try:
        if archive is not None:
            await engine.docker("load", "-i", str(archive.path))
        yield engine
    finally:
        await site.cli("engine", "rm", "-f", name)


async def page_at(number: int, address: str = "127.0.0.1") -> bytes:
    """What a web server says there."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://{address}:{number}/", timeout=60)).content


async def page_soon(number: int) -> bytes | None:
    """``page_at`` on loopback, or nothing while it does not answer."""
    with contextlib.suppress(httpx.TransportError):
        return await page_at(number)
    return None
