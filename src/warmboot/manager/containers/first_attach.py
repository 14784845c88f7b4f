"""A client that is attached before its container is started, and so misses nothing of its output.

    create ──▶ boot ──▶ created in Docker ──▶ waits ──▶ start
    attach ──────────────▶ waits ──▶ attached ──┘

Nobody waits for ever: what a client has asked for is started all the same if it does not come, or
goes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

COMES_WITHIN_S = 30.0
"""How long a container that could be started waits for a client that has not come yet."""

ATTACHED_WITHIN_S = 330.0
"""How long for one that has: its turn to be attached may take so long."""


class FirstAttach:
    """The place where the task that starts a container meets the client that attaches to it."""

    def __init__(self) -> None:
        self._created = asyncio.Event()
        self._over = asyncio.Event()
        self._coming = False
        self._place: tuple[str, str] | None = None

    async def before_start(self, vm_id: str, docker_id: str) -> None:
        """The container can be started; return when it is to be."""
        self._place = (vm_id, docker_id)
        self._created.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ATTACHED_WITHIN_S if self._coming else COMES_WITHIN_S):
                await self._over.wait()

    def close(self) -> None:
        """Note that the container has been started, or will not be."""
        self._place = None
        self._created.set()

    @contextlib.contextmanager
    def attaching(self) -> Iterator[None]:
        """A client is here; when this ends, however it does, the container is started."""
        self._coming = True
        try:
            yield
        finally:
            self._over.set()

    async def created(self) -> tuple[str, str] | None:
        """Its VM and its id in Docker there, once it waits; ``None`` if it does not (any more)."""
        await self._created.wait()
        return self._place


class FirstAttaches:
    """The containers that a client is to be attached to before their start."""

    def __init__(self) -> None:
        self._expected: dict[UUID, FirstAttach] = {}

    def expect(self, container_id: UUID) -> FirstAttach:
        first = self._expected[container_id] = FirstAttach()
        return first

    def close(self, container_id: UUID, first: FirstAttach) -> None:
        """The container has been started, or will not be. What it is begun anew with stays."""
        first.close()
        if self._expected.get(container_id) is first:
            del self._expected[container_id]

    @contextlib.asynccontextmanager
    async def place(self, container_id: UUID) -> AsyncIterator[tuple[str, str] | None]:
        """``FirstAttach.created``, for one that is to be attached within this context."""
        if (first := self._expected.get(container_id)) is None:
            yield None
            return
        with first.attaching():
            yield await first.created()
