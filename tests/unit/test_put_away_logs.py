"""What a guest makes of its log does not keep its VM from being parked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from tests.support.absent import ABSENT
from tests.unit.test_exited_vms import exited

from warmboot.host.vm.kept_output import KeptOutput
from warmboot.manager.containers.parking import put_away
from warmboot.manager.containers.parking.put_away import PutAway
from warmboot.model.sessions import LogChunk, Stream
from warmboot.model.vm import VmKind


class Host:
    """Implements what is asked of the host, and of the Docker in a guest."""

    def __init__(self, folder: Path) -> None:
        self.vms, self.docker = self, self
        self.kept_output = KeptOutput(folder)

    def link(self, _: str) -> Any:
        return self

    async def output(self, *_: Any, **__: Any) -> AsyncGenerator[LogChunk, None]:
        """A byte now, and the next one in time not to be taken for silent."""
        yield LogChunk(Stream.STDOUT, b"x")
        await asyncio.Event().wait()


async def test_a_log_that_comes_a_byte_at_a_time_is_not_copied_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_away, "COPY_TIMEOUT_S", 0.05)
    host, container = Host(tmp_path / "kept"), exited("web")
    given: Any = (VmKind.CONTAINER, ABSENT, host, *[ABSENT] * 9)
    async with asyncio.timeout(60):
        await PutAway(*given)._keep_output(container, "vm-1")
    assert await host.kept_output.read(container.id) is None
    assert list((tmp_path / "kept").iterdir()) == []
