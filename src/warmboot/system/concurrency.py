"""First-to-finish, to-the-end, some at once, threads, and ends: what asyncio leaves to callers.

Whatever is cancelled here has also cleaned up after itself when these functions return or raise,
and its exceptions have been looked at: asyncio has none to complain of.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, overload

import anyio

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")


@overload
async def race(
    one: Awaitable[A], two: Awaitable[B], /, *, timeout_s: float | None = None
) -> tuple[asyncio.Future[A] | None, asyncio.Future[B] | None]: ...


@overload
async def race(
    one: Awaitable[A], two: Awaitable[B], three: Awaitable[C], /, *, timeout_s: float | None = None
) -> tuple[asyncio.Future[A] | None, asyncio.Future[B] | None, asyncio.Future[C] | None]: ...


async def race(
    *works: Awaitable[Any], timeout_s: float | None = None
) -> tuple[asyncio.Future[Any] | None, ...]:
    """Do all at once until the first is done; in order, those that are, and ``None`` for the rest.

    More than one may be done, and none when the time is over. What is done is not looked at: call
    ``result()``, which raises if it failed. The rest is cancelled, and so is all of it with us.
    """
    racing = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(racing, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*racing)
    return tuple(one if one in done else None for one in racing)


async def finish(work: Awaitable[T], *, on_cancel: Callable[[], object] = lambda: None) -> T:
    """The result of ``work``, which is not cancelled with us.

    A cancellation is raised when it has ended, whether it succeeded or failed. ``on_cancel`` is
    called at once, and may ask the work to end sooner.
    """
    working, cancelled = asyncio.ensure_future(work), False
    with anyio.CancelScope(shield=True):  # a scope of anyio's would cancel us over and over
        while not working.done():
            try:
                await asyncio.wait({working})
            except asyncio.CancelledError:
                cancelled = True
                on_cancel()
    if cancelled:
        raise asyncio.CancelledError from _exception(working)
    return working.result()


async def all_ended(*works: Awaitable[object]) -> None:
    """Do all at once, and return when the last has ended; raises what the first that failed, in
    order, has raised."""
    for ended in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended


def in_own_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Do ``work`` in a thread of its own: one that waits long keeps no other from ``to_thread``.

    The thread goes on when the future is cancelled, and ends with the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(settled: Callable[[], None]) -> None:
        if not done.done():
            settled()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (raised by the future)
            failure = error
            loop.call_soon_threadsafe(settle, lambda: done.set_exception(failure))
        else:
            loop.call_soon_threadsafe(settle, lambda: done.set_result(result))

    threading.Thread(target=run, name=name, daemon=True).start()
    return done


class Stopped(Exception):
    """What a thread raises when its work is not wanted any more."""


async def in_stoppable_thread(work: Callable[[threading.Event], T], name: str) -> T:
    """Do ``work`` in a thread of its own, and end it when the caller is cancelled.

    ``work`` gets an event that is set then and raises ``Stopped`` soon after.
    """
    stop = threading.Event()
    return await finish(in_own_thread(lambda: work(stop), name), on_cancel=stop.set)


async def some_at_once(
    most: int, work: Callable[[A], Awaitable[T]], things: Iterable[A]
) -> list[T]:
    """``work`` of each thing, ``most`` at a time; the results in order.

    The first failure is raised, when the rest, which is cancelled, has ended.
    """
    turns = asyncio.Semaphore(most)

    async def take(thing: A) -> T:
        async with turns:
            return await work(thing)

    taken = [asyncio.ensure_future(take(thing)) for thing in things]
    try:
        return list(await asyncio.gather(*taken))
    finally:
        await end(*taken)


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel ``tasks``, and return when they have ended, however they did."""
    for task in tasks:
        task.cancel()
    try:
        if tasks:
            await finish(asyncio.wait(tasks))
    finally:
        for task in tasks:
            _exception(task)


async def process_ended(pidfd: int) -> None:
    """Return when the process has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)


def _exception(done: asyncio.Future[Any]) -> BaseException | None:
    return None if done.cancelled() else done.exception()
