"""Slots kept ready ahead of need.

One task makes slots, one after the other (the kernel's own lock allows no more at a time anyway),
until the pool is full and nobody waits. Taking a slot from the pool wakes it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from warmboot.host.network.config import Slot
from warmboot.model.errors import NetworkError

_log = structlog.get_logger(__name__)


class SlotPool:
    """At most ``size`` idle slots, made by ``make``."""

    def __init__(self, make: Callable[[], Awaitable[Slot]], size: int) -> None:
        self._make = make
        self._size = size
        self._ready: deque[Slot] = deque()
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._wake = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None

    @property
    def idle(self) -> int:
        return len(self._ready)

    def start(self) -> None:
        self._wake.set()
        self._filler = asyncio.create_task(self._fill(), name="network-pool")

    async def take(self) -> Slot:
        """An idle slot, or the next one made; the error if it cannot be made."""
        self._wake.set()
        if self._ready:
            return self._ready.popleft()
        if self._filler is None:
            raise NetworkError("the network is not started")
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._ready.append(waiter.result())  # handed over, but nobody is there to take it
            raise

    async def drain(self) -> list[Slot]:
        """Stop making slots, fail who waits for one, and give up those that are idle."""
        if self._filler is not None:
            self._filler.cancel()
            await asyncio.wait([self._filler])
            self._filler = None
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NetworkError("the network was stopped"))
        self._waiting.clear()
        idle = list(self._ready)
        self._ready.clear()
        return idle

    async def _fill(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._lacking():
                try:
                    slot = await self._make()
                except NetworkError as error:
                    self._failed(error)
                    break
                self._deliver(slot)

    def _lacking(self) -> bool:
        while self._waiting and self._waiting[0].done():  # cancelled meanwhile
            self._waiting.popleft()
        return bool(self._waiting) or len(self._ready) < self._size

    def _deliver(self, slot: Slot) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._ready.append(slot)

    def _failed(self, error: NetworkError) -> None:
        """Whoever waits gets the error; the next request tries again."""
        _log.warning("network slot not made", brief=error.brief, details=error.details)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiting.clear()
