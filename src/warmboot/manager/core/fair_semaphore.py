"""A semaphore that is given to callers by turns, however many of one of them wait."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque


class FairSemaphore:
    """``value`` may hold it at once. Those of one caller get it in the order of asking."""

    def __init__(self, value: int) -> None:
        self._free = value
        self._last: str | None = None
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def acquire(self, caller: str) -> None:
        """Wait for it; ``release`` is to be called then. Not held if that is cancelled."""
        if self._free:
            self._free -= 1
            self._last = caller
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # given at the same moment
                self.release()
            elif (waiting := self._waiting.get(caller)) is not None and turn in waiting:
                waiting.remove(turn)
                if not waiting:
                    del self._waiting[caller]
            raise

    def release(self) -> None:
        """The one who waits longest, of another caller than had it last if there is one, has it."""
        while self._waiting:
            others = (caller for caller in self._waiting if caller != self._last)
            caller = next(others, next(iter(self._waiting)))
            waiting = self._waiting[caller]
            turn = waiting.popleft()
            if waiting:
                self._waiting.move_to_end(caller)
            else:
                del self._waiting[caller]
            if not turn.done():
                self._last = caller
                turn.set_result(None)
                return
        self._free += 1
