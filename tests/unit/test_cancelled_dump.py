"""A dump that is cancelled, as when the manager is ended: the container is not left frozen."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from tests.support.eventually import until

from warmboot.criu.in_progress import Limits, Work
from warmboot.criu.log import CriuLog
from warmboot.criu.runtime import dump as dumping
from warmboot.criu.runtime.folders import CheckpointFolder
from warmboot.criu.runtime.orders import Runc
from warmboot.criu.runtime_work import ends_within

GENEROUS_S = 60.0


class Freezer:
    """Freezes when it is let, so that a dump can be cancelled before and after that."""

    def __init__(self) -> None:
        self.frozen = False
        self.begun, self.go_on = threading.Event(), threading.Event()

    def freeze(self, container_id: str, pid: int) -> bool:
        self.begun.set()
        assert self.go_on.wait(GENEROUS_S)
        self.frozen = True
        return True

    def thaw(self, container_id: str, pid: int) -> bool:
        self.frozen = False
        return True


@pytest.fixture
def freezer(monkeypatch: pytest.MonkeyPatch) -> Freezer:
    made = Freezer()
    monkeypatch.setattr(dumping, "freeze", made.freeze)
    monkeypatch.setattr(dumping, "thaw", made.thaw)
    return made


@pytest.fixture
def runc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that leaves a CRIU at work in the checkpoint's folder, and hangs."""
    program = tmp_path / "runc"
    program.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != --work-path ]; do shift; done\n'
        'cd "$2"\n'
        "sleep 1000 &\n"
        "echo $! > criu.new; mv criu.new criu\n"
        "wait\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(dumping, "runc_of", lambda _: Runc(program, tmp_path / "root"))
    monkeypatch.setattr(dumping, "give_options", lambda *_: None)
    return program


async def dumped(tmp_path: Path) -> None:
    making = CheckpointFolder(tmp_path / "checkpoints" / "one").begin()
    work = Work(None, tmp_path / "docker.sock", "c0ffee", folders=(making.path,))
    await dumping.dump(
        work,
        making,
        CriuLog(),
        search_path="/usr/bin:/bin",
        layer=None,
        mounts={},
        leave_running=False,
        limits=Limits(GENEROUS_S),
    )


async def test_what_is_cancelled_while_it_freezes_is_thawed(
    freezer: Freezer, runc: Path, tmp_path: Path
) -> None:
    dump = asyncio.create_task(dumped(tmp_path))
    assert await asyncio.to_thread(freezer.begun.wait, GENEROUS_S)
    dump.cancel()
    await asyncio.sleep(0)
    freezer.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(dump, GENEROUS_S)
    assert not freezer.frozen
    assert not list(tmp_path.rglob("criu")), "the dump has not begun"


async def test_what_is_cancelled_while_it_is_dumped_is_thawed_and_no_criu_goes_on(
    freezer: Freezer, runc: Path, tmp_path: Path
) -> None:
    freezer.go_on.set()
    dump = asyncio.create_task(dumped(tmp_path))
    await until(lambda: any(tmp_path.rglob("criu")), "it is being dumped")
    (found,) = tmp_path.rglob("criu")
    criu = int(found.read_text())
    assert freezer.frozen
    dump.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(dump, GENEROUS_S)
    assert not freezer.frozen
    assert ends_within(criu, GENEROUS_S)
