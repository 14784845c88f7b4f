"""The way from a program without an event loop to the client, which lives in one.

program's thread ── run, iterate, entered ──▶ portal's thread: the loop, the async client
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.to_thread import run_sync

from warmboot.client.results import LogChunk
from warmboot.client.sessions import Session as AsyncSession
from warmboot.model.errors import InvalidRequest

T = TypeVar("T")
U = TypeVar("U")


class Portal:
    """``open`` it first; ``close`` ends what is still going on in it."""

    def __init__(self) -> None:
        self._portal: BlockingPortal | None = None
        self._held = contextlib.ExitStack()

    def open(self) -> None:
        """Start the thread with its loop."""
        self._portal = self._held.enter_context(start_blocking_portal())

    def close(self, *why: object) -> None:
        """``why``: the exception's type, value and traceback, as a context manager is told."""
        self._portal = None
        if any(why):
            self._held.__exit__(*why)  # type: ignore[arg-type]
        else:
            self._held.close()

    def run(self, begin: Callable[[], Awaitable[T]]) -> T:
        """What comes of the work that ``begin`` begins in the loop."""

        async def work() -> T:
            return await begin()

        return self._there.call(work)

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Its items as they come; it is closed when nobody wants more of them."""
        end = object()

        async def step() -> T | object:
            return await anext(source, end)

        try:
            while (one := self._there.call(step)) is not end:
                yield one  # type: ignore[misc]
        finally:
            if (close := getattr(source, "aclose", None)) is not None and self._portal is not None:
                self._portal.call(close)

    @contextlib.contextmanager
    def entered(
        self, manager: AbstractAsyncContextManager[T], as_sync: Callable[[T], U]
    ) -> Iterator[U]:
        """The context of ``manager``, and its value ``as_sync``."""
        with self._there.wrap_async_context_manager(manager) as value:
            yield as_sync(value)

    @staticmethod
    def value(one: T) -> T:
        """As it is."""
        return one

    def session(self, session: AsyncSession) -> Session:
        """The sync one of a session."""
        return Session(self, session)

    async def fed(self, chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
        """``chunks``, each of them waited for in a thread: making one may take its time."""
        source = iter(chunks)
        while (chunk := await run_sync(next, source, None)) is not None:
            yield chunk

    @property
    def _there(self) -> BlockingPortal:
        if self._portal is None:
            raise InvalidRequest(
                "the client is not open",
                resolution="use it in a context: `with SyncClient() as client:`",
            )
        return self._portal


class Session:
    """A running process. Iterate for its output; ``exit_code`` is set when that has ended."""

    def __init__(self, portal: Portal, session: AsyncSession) -> None:
        self._portal, self._session = portal, session

    def __iter__(self) -> Iterator[LogChunk]:
        return self._portal.iterate(aiter(self._session))

    @property
    def exit_code(self) -> int | None:
        """That of its process; ``None`` until it has ended."""
        return self._session.exit_code

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._session.ended

    def write(self, data: bytes) -> None:
        """Give the process input. ``Unavailable`` when the connection is lost."""
        self._portal.run(lambda: self._session.write(data))

    def write_eof(self) -> None:
        """End its input."""
        self._portal.run(self._session.write_eof)

    def resize(self, rows: int, columns: int) -> None:
        """Tell it the size of its terminal."""
        self._portal.run(lambda: self._session.resize(rows, columns))
