"""A resume whose checkpoint is checked while the engine is asked."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest
from typing_extensions import override

from warmboot.criu.in_progress import Limits, Work
from warmboot.criu.runtime import resume
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointError, CheckpointTimeout

GENEROUS_S = 60.0


class Engine(DockerEngine):
    """Its start waits for the runtime, which hangs in its own check until that is ended."""

    def __init__(self, ended: asyncio.Event) -> None:
        super().__init__(Path("/nowhere"))
        self._ended = ended

    @override
    async def start_restored(self, container: str) -> None:
        await self._ended.wait()
        raise CheckpointError("the restore failed", details="the runtime was ended")


async def test_a_check_that_hangs_keeps_nobody_beyond_the_time_that_the_request_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def end_work(container: str, pid: int) -> None:
        ended.set()

    monkeypatch.setattr("warmboot.criu.in_progress.end_work", end_work)
    check = asyncio.get_running_loop().create_future()
    work = Work(None, tmp_path / "docker.sock", secrets.token_hex(8), folders=(tmp_path,))
    limits = Limits(GENEROUS_S, timeout_s=0.1)
    async with asyncio.timeout(GENEROUS_S):
        with pytest.raises(CheckpointTimeout):
            await resume._start_while(check, Engine(ended), work, limits)
    assert not check.done()
