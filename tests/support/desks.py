"""Users at a command line: ``warmboot …`` as processes, and a real manager on simulated VMs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from tests.support.managers import Lab, eventually, image_folder, lab
from tests.support.ports import free_port
from tests.support.served import served

from warmboot.client import Client
from warmboot.client.results import Container

WARMBOOT = [sys.executable, "-m", "warmboot.cli"]


@dataclass(slots=True)
class Desk:
    """A user at a command line."""

    place: Lab
    client: Client
    url: str

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "WARMBOOT_URL": self.url, "COLUMNS": "200"}

    async def begin(
        self,
        *words: str,
        stdin: int = asyncio.subprocess.PIPE,
        stdout: int = asyncio.subprocess.PIPE,
    ) -> asyncio.subprocess.Process:
        """A ``warmboot`` whose input stays open."""
        return await asyncio.create_subprocess_exec(
            *(*WARMBOOT, *words),
            env=self.env,
            stdin=stdin,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )

    async def type(self, *words: str) -> tuple[int, str, str]:
        process = await self.begin(*words)
        out, err = await asyncio.wait_for(process.communicate(), 90)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def until(self, name: str, *states: str) -> Container:
        async def look() -> Container | None:
            for container in await self.client.containers.list(all_states=True):
                if container.name == name and container.state in states:
                    return container
            return None

        return await eventually(look, f"{name} is {states}")

    async def until_nothing(self) -> None:
        async def look() -> bool:
            return not await self.client.containers.list(all_states=True)

        await eventually(look, "no container is left")

    async def names(self) -> Sequence[str]:
        return [container.name for container in await self.client.containers.list(all_states=True)]


@contextlib.asynccontextmanager
async def desks() -> AsyncIterator[Desk]:
    """One of them; its containers go with it."""
    async with lab() as place, served(place.settings(port=free_port())) as it:
        await it.client.images.register("default", path=str(await image_folder()))
        yield Desk(place, it.client, it.url)
        for container in await it.client.containers.list(all_states=True):
            await it.client.containers.delete(container.id, force=True)
