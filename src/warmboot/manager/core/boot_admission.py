"""Admits a few boots at a time, and lets boots go before the work that follows them.

A warm boot takes some hundredths of a second of the manager's time, then as much of its guest's;
bringing an image into a guest and starting a container takes some tenths. Begun all at once on few
CPUs they would all end late. One after the other, one boot's guest at work while the next boot is
prepared, most of them end early, and the last one no later::

    prepare (one at a time) ─▶ run (half as many as CPUs) ─▶ over ─▶ let boots pass ─▶ container
    request, journal, disk     the guest, until Docker answers

Nobody waits longer than ``wait_timeout_s``, whatever hangs before him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

WAIT_TIMEOUT_S = 1.0


class BootAdmission:
    """``most``: how many guests are booted at once."""

    def __init__(self, most: int, wait_timeout_s: float = WAIT_TIMEOUT_S) -> None:
        self.preparing = asyncio.Semaphore(1)
        self.running = asyncio.Semaphore(most)
        self._wait_timeout_s = wait_timeout_s
        self._boots = 0
        self._none_left = asyncio.Event()
        self._none_left.set()

    def boot(self) -> BootTicket:
        """A ticket for one boot, which is to say when it is over."""
        return BootTicket(self)

    async def let_boots_pass(self) -> None:
        """Return when no boot is admitted or waits to be."""
        await self.in_time(self._none_left.wait())

    async def in_time(self, waited_for: Awaitable[object]) -> bool:
        """Whether it came in time."""
        try:
            async with asyncio.timeout(self._wait_timeout_s):
                await waited_for
        except TimeoutError:
            return False
        return True

    def count(self, change: int) -> None:
        self._boots += change
        if self._boots == 0:
            self._none_left.set()
        else:
            self._none_left.clear()


class BootTicket:
    """One boot's. The methods are called in their order; any may be left out, or called again."""

    def __init__(self, admission: BootAdmission) -> None:
        self._admission = admission
        self._counted = self._prepares = self._runs = False

    async def prepare(self) -> None:
        """Wait, in the order of asking, until no other boot is prepared."""
        self._count()
        if not self._prepares:
            self._prepares = await self._admission.in_time(self._admission.preparing.acquire())

    async def run(self) -> None:
        """Wait until the guest may run."""
        self._count()
        if not self._runs:
            self._runs = await self._admission.in_time(self._admission.running.acquire())

    def ran(self) -> None:
        """The guest has done its part; another may run."""
        if self._runs:
            self._runs = False
            self._admission.running.release()

    def over(self) -> None:
        """It has ended, or waits for something else than the others."""
        self.prepared()
        self.ran()
        if self._counted:
            self._counted = False
            self._admission.count(-1)

    def prepared(self) -> None:
        """Its guest is at work; the next one may be prepared."""
        if self._prepares:
            self._prepares = False
            self._admission.preparing.release()

    def _count(self) -> None:
        if not self._counted:
            self._counted = True
            self._admission.count(+1)
