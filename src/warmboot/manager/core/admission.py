"""Who goes first: one admission for everything that competes for the processors.

A warm boot takes some hundredths of a second of the manager's time, then as much of its guest's;
bringing an image into a guest and starting a container takes some tenths. Begun all at once on few
CPUs they would all end late. One after the other, one boot's guest at work while the next boot is
prepared, most of them end early, and the last one no later::

    a boot        prepare (one at a time) ─▶ run (half as many as CPUs) ─▶ booted ─▶ … ─▶ over
                  request, journal, disk     the guest, until Docker answers
    after it      image and container: when no boot has or waits for a turn
    ahead         VMs of the warm pool: while nobody waits for a container
    background    snapshots' files, one piece of work at a time: begins when boots have passed

Callers have their turns one after the other: a burst of one of them does not keep another's single
start waiting for all of it.

No boot, nor what follows one, waits longer than ``wait_timeout_s``, whatever hangs before it.

What is under way already is not stopped for a boot; the kernel sees to it. VMMs of the warm pool,
and of builds that nobody waits for, run with ``VmSpec.background``, work on files in processes of
low priority (``system.low_priority``). Nothing else decides who goes first. That the reconciler
begins one rebuild at a time and the collector collects once at a time keeps their own order;
network slots and memory are refused when there are none, and are not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Collection
from uuid import UUID

from warmboot.manager.core.fair_semaphore import FairSemaphore
from warmboot.model.conventions.caller import CALLER

WAIT_TIMEOUT_S = 1.0
GUESTS_AT_ONCE = max(1, (os.cpu_count() or 1) // 2)


class BootAdmission:
    """``most``: how many guests are booted at once."""

    def __init__(self, most: int, wait_timeout_s: float = WAIT_TIMEOUT_S) -> None:
        self.preparing = FairSemaphore(1)
        self.running = FairSemaphore(most)
        self.boots = _Count()
        self.users = _Count()
        self._wait_timeout_s = wait_timeout_s
        self._on_files = asyncio.Lock()
        self._files_of: Counter[UUID] = Counter()

    def boot(self) -> BootTicket:
        """A ticket for one boot that ``CALLER`` waits for; its ``over`` is to be called."""
        return BootTicket(self, CALLER.get())

    async def after_boots(self) -> None:
        """Return when no boot is admitted or waits to be."""
        await self.in_time(self.boots.none.wait())

    @property
    def quiet(self) -> bool:
        """Nobody waits for a container: what is made ahead of need may begin."""
        return self.users.none.is_set()

    async def until_quiet(self) -> None:
        """Return when nobody waits for a container, however long that takes."""
        await self.users.none.wait()

    @contextlib.asynccontextmanager
    async def background(self, snapshot_id: UUID) -> AsyncIterator[None]:
        """Heavy work on a snapshot's files in the body: one at a time, behind boots."""
        self._files_of[snapshot_id] += 1
        try:
            async with self._on_files:
                await self.after_boots()
                yield
        finally:
            self._files_of[snapshot_id] -= 1
            self._files_of += Counter()  # only those above zero stay

    def in_background(self) -> Collection[UUID]:
        """The snapshots whose files are worked on, or are to be: nobody takes them away."""
        return frozenset(self._files_of)

    async def in_time(self, waited_for: Awaitable[object]) -> bool:
        """Whether ``waited_for`` came within the time that a boot may be kept waiting."""
        try:
            async with asyncio.timeout(self._wait_timeout_s):
                await waited_for
        except TimeoutError:
            return False
        return True


class BootTicket:
    """The ticket of one boot.

    Its methods are called in their order; any may be left out, or called again.
    """

    def __init__(self, admission: BootAdmission, caller: str) -> None:
        self._admission = admission
        self._caller = caller
        self._boots = self._prepares = self._runs = False
        self._waits = True
        admission.users.add(+1)

    async def prepare(self) -> None:
        """Wait until no other is prepared: the caller's own in their order, callers by turns."""
        self._begin()
        if not self._prepares:
            self._prepares = await self._admission.in_time(
                self._admission.preparing.acquire(self._caller)
            )

    def prepared(self) -> None:
        """The boot's guest is at work; the next boot may be prepared."""
        if self._prepares:
            self._prepares = False
            self._admission.preparing.release()

    async def run(self) -> None:
        """Wait until the guest may run."""
        self._begin()
        if not self._runs:
            self._runs = await self._admission.in_time(
                self._admission.running.acquire(self._caller)
            )

    def ran(self) -> None:
        """The guest has done its part; another may run."""
        if self._runs:
            self._runs = False
            self._admission.running.release()

    def booted(self) -> None:
        """The boot has ended, or steps aside: it waits for something else than the others."""
        self.prepared()
        self.ran()
        if self._boots:
            self._boots = False
            self._admission.boots.add(-1)

    def over(self) -> None:
        """Nobody waits for this boot's container any more."""
        self.booted()
        if self._waits:
            self._waits = False
            self._admission.users.add(-1)

    def _begin(self) -> None:
        if not self._boots:
            self._boots = True
            self._admission.boots.add(+1)


class _Count:
    """``none`` is set while it is zero."""

    def __init__(self) -> None:
        self._count = 0
        self.none = asyncio.Event()
        self.none.set()

    def add(self, change: int) -> None:
        self._count += change
        if self._count == 0:
            self.none.set()
        else:
            self.none.clear()
