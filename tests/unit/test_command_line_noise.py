"""What goes on below a command that has stopped waiting is not shown to its user."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import anyio
import pytest

from warmboot.cli.drive import drive


async def cancelled_as_data_arrives(path: Path) -> str:
    """A wait for a Unix socket ends, and its data comes, in one turn of the loop."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with await anyio.connect_unix(path) as stream:
            peer, _ = listener.accept()
            with peer:
                receiving = asyncio.create_task(stream.receive())
                await anyio.wait_all_tasks_blocked()
                peer.send(b"x")
                asyncio.get_running_loop().call_soon(receiving.cancel)
                await asyncio.wait([receiving])
    return "done"


def test_a_wait_that_is_ended_as_its_data_arrives_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert drive(cancelled_as_data_arrives(tmp_path / "s")) == "done"
    assert caplog.text == ""


async def forgotten() -> None:
    asyncio.get_running_loop().call_soon(lambda: 1 // 0)
    await asyncio.sleep(0)


def test_what_goes_wrong_otherwise_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    drive(forgotten())
    assert "ZeroDivisionError" in caplog.text
