"""A container in the foreground: how its session's end is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from warmboot.cli.terminal.foreground import Stay
from warmboot.cli.terminal.signals import Signals
from warmboot.model.errors import CommandNotExecutable, CommandNotFound, Unavailable, WarmbootError

REMOVED = SimpleNamespace(id="c", name="c", state="deleting", exit_code=126)


class BeingRemoved:
    """A manager that is removing the container by the time anybody asks for it."""

    class containers:
        @staticmethod
        async def wait(_ref: str, *_: Any, **__: Any) -> Any:
            return REMOVED


class EndsWith:
    """A session that ends with an error."""

    exit_code = None

    def __init__(self, error: WarmbootError) -> None:
        self.error = error

    async def __aiter__(self) -> AsyncIterator[Any]:
        raise self.error
        yield


async def stayed(error: WarmbootError) -> int:
    client, session = BeingRemoved(), EndsWith(error)
    with Signals() as signals:
        stay = Stay(client, REMOVED, signals)  # type: ignore[arg-type]
        async with asyncio.timeout(60):
            return await stay.run(session, stdin=False, tty=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("why", [CommandNotExecutable, CommandNotFound])
async def test_why_its_program_was_not_executed_is_told_also_when_it_is_being_removed(
    why: type[WarmbootError],
) -> None:
    with pytest.raises(why, match="no program"):
        await stayed(why("it is no program"))


async def test_one_that_was_cut_off_by_its_removal_ends_with_its_exit_code() -> None:
    assert await stayed(Unavailable("the session was cut off")) == 126
