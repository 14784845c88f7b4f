"""The pool of network slots that are prepared in advance.

One task makes slots, one after the other (the kernel's own lock allows no more at a time anyway),
until the pool is full and nobody waits. Taking a slot from the pool wakes it. When a slot cannot be
made, whoever waits is told why; another is tried after a pause, and for the next request at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from warmboot.host.network.config import Slot
from warmboot.model.errors import NetworkError
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import end
from warmboot.system.on_failure import on_failure

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

WAIT_TIMEOUT_S = 60.0
"""How long a request waits while not a single slot gets ready, for anybody."""

_log = structlog.get_logger(__name__)


class SlotPool:
    """A pool of slots that are kept ready, ``size`` at most, made by ``make``."""

    def __init__(self, make: Callable[[], Awaitable[Slot]], size: int) -> None:
        self._make = make
        self._size = size
        self._ready: deque[Slot] = deque()
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._wake = asyncio.Event()
        self._filler: asyncio.Task[None] | None = None
        self._made = 0
        self._last_failure = ""

    @property
    def idle(self) -> int:
        return len(self._ready)

    def start(self) -> None:
        self._wake.set()
        self._filler = asyncio.create_task(self._fill(), name="network-pool")

    async def take(self) -> Slot:
        """An idle slot, or the next one made; ``NetworkError`` if it cannot be made, or is not."""
        self._wake.set()
        if self._ready:
            return self._ready.popleft()
        if self._filler is None:
            raise NetworkError("the network is not started")
        waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        with on_failure(lambda: self._take_back(waiter)):
            while not waiter.done():
                made = self._made
                await asyncio.wait({waiter}, timeout=WAIT_TIMEOUT_S)
                if not waiter.done() and self._made == made:
                    raise self._waited_too_long()
            return waiter.result()

    def _take_back(self, waiter: asyncio.Future[Slot]) -> None:
        if not waiter.cancel() and waiter.exception() is None:
            self._ready.append(waiter.result())  # handed over, but nobody is there to take it

    def _waited_too_long(self) -> NetworkError:
        return NetworkError(
            "no network for the VM became ready",
            details=f"none within {WAIT_TIMEOUT_S:g} s; "
            + (self._last_failure or "none has failed either: the kernel or nft hangs"),
            resolution="check whether `ip link` and `nft list tables` answer on this machine",
        )

    async def drain(self) -> list[Slot]:
        """Stop making slots, fail who waits for one, and give up those that are idle."""
        if self._filler is not None:
            await end(self._filler)
            self._filler = None
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(NetworkError("the network was stopped"))
        self._waiting.clear()
        idle = list(self._ready)
        self._ready.clear()
        return idle

    async def _fill(self) -> None:
        back_off, pause_s = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S), None
        while True:
            await self._woken(pause_s)
            pause_s = await self._refill(back_off)

    async def _woken(self, pause_s: float | None) -> None:
        """Return when a slot was taken, or the pause after a failure is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        self._wake.clear()

    async def _refill(self, back_off: BackOff) -> float | None:
        """Make what is lacking; after a failure, how long to pause."""
        while self._lacking():
            try:
                slot = await self._make()
            except Exception as error:  # noqa: BLE001 - whatever it is: who waits hears of it
                self._failed(error)
                return back_off.take_s()
            back_off.reset()
            self._deliver(slot)
        back_off.reset()
        return None

    def _lacking(self) -> bool:
        while self._waiting and self._waiting[0].done():  # cancelled meanwhile
            self._waiting.popleft()
        return bool(self._waiting) or len(self._ready) < self._size

    def _deliver(self, slot: Slot) -> None:
        self._made += 1
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return
        self._ready.append(slot)

    def _failed(self, error: Exception) -> None:
        """Whoever waits gets the error; the next request tries again."""
        told = error if isinstance(error, NetworkError) else _unforeseen(error)
        _log.warning("network slot not made", brief=told.brief, details=told.details)
        self._last_failure = f"the last failure: {told.brief}: {told.details}"
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(told)
        self._waiting.clear()


def _unforeseen(error: Exception) -> NetworkError:
    return NetworkError(
        "a network for a VM could not be made",
        details=str(error) or repr(error),
        resolution="see the manager's log, and try again",
    )
