"""What was taken is given back if what is done with it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

R_co = TypeVar("R_co", covariant=True)


class on_failure(Generic[R_co]):
    """Call ``undo`` if the block is left by an exception, a cancellation too; that goes on.

    ``async with`` awaits it.
    """

    def __init__(self, undo: Callable[[], R_co]) -> None:
        self._undo = undo

    def __enter__(self: on_failure[None]) -> None: ...

    def __exit__(self: on_failure[None], kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._undo()

    async def __aenter__(self: on_failure[Awaitable[object]]) -> None: ...

    async def __aexit__(
        self: on_failure[Awaitable[object]], kind: type[BaseException] | None, *_: object
    ) -> None:
        if kind is not None:
            await self._undo()
