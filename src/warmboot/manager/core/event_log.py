"""The event log: writes events to the store, and wakes up those who wait for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from warmboot.model.journal.event import Event
from warmboot.store import Store

T = TypeVar("T")
Observer = Callable[[Event], None]

KEEP_EVENTS = 10_000
REPORTED = "worker.reported"
KEEP_REPORTS = 500
"""Of each worker: how many there are is up to it."""
_TRIM_EVERY = 1_000
_TRIM_REPORTS_EVERY = 50
_PAGE = 500


class Emit(Protocol):
    """Writes an event in the transaction that is open."""

    async def __call__(self, kind: str, subject_id: object, **data: Any) -> None: ...


class EventLog:
    """Every change of state is emitted here, so waiting for an event is waiting for a change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tick = asyncio.Event()
        self._ticks: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._last_id = 0
        self._observers: list[Observer] = []
        self._reports: Counter[str] = Counter()
        self.followers = 0
        """How many listen to ``follow`` at the moment."""

    def observe(self, observer: Observer) -> None:
        """Call ``observer`` with every event of this manager, at once; it may not raise or wait."""
        self._observers.append(observer)

    async def start(self) -> None:
        self._last_id = await self._store.events.last_id()

    async def emit(self, kind: str, subject_id: object, **data: Any) -> Event:
        event = await self._store.events.append(kind, str(subject_id), data)
        await self._announce(event)
        return event

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Emit]:
        """What is stored inside, and the events of it, are there for everybody at once, or not.

        Observers are called and waiters woken when it is committed. Do nothing else in it.
        """
        written: list[Event] = []

        async def emit(kind: str, subject_id: object, **data: Any) -> None:
            written.append(await self._store.events.append(kind, str(subject_id), data))

        async with self._store.transaction():
            yield emit
        for event in written:
            await self._announce(event)

    async def _announce(self, event: Event) -> None:
        self._last_id = max(self._last_id, event.id)
        for observer in self._observers:
            observer(event)
        self.wake(event.subject_id)
        if event.id % _TRIM_EVERY == 0:
            await self._store.events.trim(KEEP_EVENTS)

    async def report(self, subject_id: object, **data: Any) -> None:
        """What a worker says of itself. It takes nobody else's place among what is kept."""
        event = await self.emit(REPORTED, subject_id, **data)
        worker = event.subject_id
        self._reports[worker] += 1
        if self._reports[worker] >= _TRIM_REPORTS_EVERY:
            del self._reports[worker]
            await self._store.events.trim_reports(REPORTED, KEEP_REPORTS, worker)

    def wake(self, subject_id: object) -> None:
        """Let those look again who wait for ``subject_id``, or for anything."""
        tick, self._tick = self._tick, asyncio.Event()
        tick.set()
        if (own := self._ticks.pop(str(subject_id), None)) is not None:
            own.set()

    async def list(
        self, after: int = 0, limit: int = 100, kinds: Collection[str] = ()
    ) -> Sequence[Event]:
        return await self._store.events.since(after, limit, kinds)

    async def newest(self, count: int) -> Sequence[Event]:
        """The last ``count`` events, oldest first."""
        last = await self._store.events.last_id()
        return await self._store.events.since(max(0, last - count), count)

    async def follow(
        self, after: int | None = None, kinds: Collection[str] = ()
    ) -> AsyncIterator[Event]:
        last = self._last_id if after is None else after
        self.followers += 1
        try:
            while True:
                tick = self._tick  # taken before the look, so nothing falls in between
                events = await self._store.events.since(last, _PAGE)
                for event in events:
                    if not kinds or event.kind in kinds:
                        yield event
                    last = event.id
                if not events:
                    await tick.wait()
        finally:
            self.followers -= 1

    async def wait_for(
        self,
        look: Callable[[], Awaitable[T | None]],
        timeout_s: float | None,
        subject_id: object | None = None,
    ) -> T | None:
        """The first result of ``look`` that is not None; None when the time is over, if there is a
        limit.

        With a ``subject_id`` only its events make it look again: what one waits for does not cost
        more because many wait.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    tick = self._tick_of(subject_id)
                    found = await look()
                    if found is not None:
                        return found
                    await tick.wait()
        except TimeoutError:
            return None

    def _tick_of(self, subject_id: object | None) -> asyncio.Event:
        if subject_id is None:
            return self._tick
        return self._ticks.setdefault(str(subject_id), asyncio.Event())
