"""What was taken is given back if what is done with it fails."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

R_co = TypeVar("R_co", covariant=True)

log = logging.getLogger(__name__)


class on_failure(Generic[R_co]):
    """Call ``undo`` if the block is left by an exception, a cancellation too; that goes on, also
    if ``undo`` fails, which is logged then: it is not what anybody asked for.

    ``async with`` awaits it.
    """

    def __init__(self, undo: Callable[[], R_co]) -> None:
        self._undo = undo

    def __enter__(self: on_failure[None]) -> None: ...

    def __exit__(
        self: on_failure[None],
        kind: type[BaseException] | None,
        cause: BaseException | None,
        *_: object,
    ) -> None:
        if kind is not None:
            try:
                self._undo()
            except Exception as failure:  # noqa: BLE001 (the cause says more)
                _log(failure, cause)

    async def __aenter__(self: on_failure[Awaitable[object]]) -> None: ...

    async def __aexit__(
        self: on_failure[Awaitable[object]],
        kind: type[BaseException] | None,
        cause: BaseException | None,
        *_: object,
    ) -> None:
        if kind is not None:
            try:
                await self._undo()
            except Exception as failure:  # noqa: BLE001 (the cause says more)
                _log(failure, cause)


def _log(failure: Exception, cause: BaseException | None) -> None:
    log.warning("what was taken was not given back: %s (after %r)", failure, cause)
