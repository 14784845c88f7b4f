"""What comes in on a file descriptor is passed on, whatever mode it is in."""

from __future__ import annotations

import asyncio
import os

import pytest

from warmboot.cli.terminal.terminal import keys


@pytest.mark.parametrize("blocking", [True, False])
async def test_input_that_comes_later_is_waited_for(blocking: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, blocking)
    arriving = keys(reading)
    try:
        first = asyncio.ensure_future(anext(arriving))
        await asyncio.sleep(0)  # its thread begins to read
        os.write(writing, b"one")
        assert await first == b"one"
        os.write(writing, b"two")
        assert await anext(arriving) == b"two"
        os.close(writing)
        assert [chunk async for chunk in arriving] == []
    finally:
        os.close(reading)


async def test_a_descriptor_that_is_closed_has_no_input() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    assert [chunk async for chunk in keys(reading)] == []
