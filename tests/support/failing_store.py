"""A store that refuses one call, as a database on a full disk does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import ParamSpec, TypeVar

import pytest

from warmboot.model.errors import DiskFull
from warmboot.store.database import Database

P = ParamSpec("P")
T = TypeVar("T")

FULL = DiskFull("no room is left for the database")


class FailingStore:
    """Refuses call ``number`` of those that tasks make whose name begins with ``key``."""

    def __init__(self, patch: pytest.MonkeyPatch, key: str, number: int) -> None:
        self._key = key
        self._number = number
        self.calls = 0
        self.refused = False
        for method in ("read", "write", "transaction"):
            patch.setattr(Database, method, self._refusing(getattr(Database, method)))

    def _refusing(
        self, real: Callable[P, AbstractAsyncContextManager[T]]
    ) -> Callable[P, AbstractAsyncContextManager[T]]:
        @contextlib.asynccontextmanager
        async def call(*args: P.args, **options: P.kwargs) -> AsyncIterator[T]:
            task = asyncio.current_task()
            if task is not None and task.get_name().startswith(self._key):
                self.calls += 1
                if self.calls == self._number:
                    self.refused = True
                    raise FULL
            async with real(*args, **options) as connection:
                yield connection

        return call

    async def asked_again(self) -> bool | None:
        return True if self.calls > self._number else None
