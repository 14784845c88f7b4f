"""Containers are paused and resumed with their memory, on a real engine with real CRIU."""

from __future__ import annotations

import os

import pytest
from tests.criu.conftest import LINE_TIMEOUT_S, Changes, Start, counted, last_count, wait_for_line
from tests.support.dockerd import PrivateDockerd

from warmboot.criu.checkpoint import checkpoint
from warmboot.criu.containerd import SALT_FILE
from warmboot.criu.continuity import Continuity
from warmboot.criu.restore import restore
from warmboot.criu.setup.verification import verify
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import Conflict, InvalidName, NameTaken, NotFound, NotSupported

pytestmark = [pytest.mark.docker, pytest.mark.root]


async def test_memory_survives(engine: DockerEngine, start: Start) -> None:
    container = await start()
    secret, _ = await counted(engine, container, beyond=3)
    await checkpoint(engine, container, "cp")
    assert not (await engine.inspect(container)).running
    _, before = await last_count(engine, container)
    restored = await restore(engine, container, "cp")
    assert restored.continuity is Continuity.SAME
    secret_after, after = await counted(engine, container, beyond=before)
    assert secret_after == secret
    assert after == before + 1


async def test_a_paused_worker_is_gone_from_the_process_list(
    engine: DockerEngine, start: Start
) -> None:
    container = await start()
    pid = (await engine.inspect(container)).pid
    await checkpoint(engine, container, "cp")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_checkpoint_tells_what_it_is(engine: DockerEngine, start: Start) -> None:
    container = await start()
    await counted(engine, container, beyond=1)
    dumped = await checkpoint(engine, container, "cp")
    files = [path for path in dumped.folder.iterdir() if path.name != SALT_FILE]
    assert dumped.size_bytes == sum(path.stat().st_size for path in files)
    assert 1 <= dumped.processes <= 2
    assert dumped.tcp_connections == 0
    assert dumped.duration_s > 0
    assert dumped.versions.criu >= "4.2"
    assert dumped.image_digest.startswith("sha256:")
    assert await engine.checkpoints(container) == ["cp"]


async def test_one_checkpoint_can_be_restored_again_and_again(
    engine: DockerEngine, start: Start
) -> None:
    container = await start()
    await counted(engine, container, beyond=2)
    await checkpoint(engine, container, "cp")
    for _ in range(3):
        assert (await restore(engine, container, "cp")).attempts == 1
        await engine.kill(container)
        await engine.wait_stopped(container, LINE_TIMEOUT_S)


async def test_a_checkpoint_may_leave_it_running(engine: DockerEngine, start: Start) -> None:
    container = await start()
    await counted(engine, container, beyond=1)
    pid = (await engine.inspect(container)).pid
    dumped = await checkpoint(engine, container, "cp", leave_running=True)
    now = await engine.inspect(container)
    assert dumped.left_running
    assert (now.running, now.pid) == (True, pid)


async def test_a_process_that_ends_soon_is_told_apart(engine: DockerEngine, start: Start) -> None:
    began = "$(cut -d' ' -f22 /proc/1/stat)"  # of its main process: another one's, once restored
    waits = f'a={began}; echo ready; while [ "{began}" = "$a" ]; do sleep 0.01; done'
    container = await start(script=f"{waits}; sleep 1; exit 7")
    await wait_for_line(engine, container, lambda line: line == "ready")
    await checkpoint(engine, container, "cp")
    restored = await restore(engine, container, "cp")
    if restored.continuity is Continuity.ENDED:
        assert restored.exit_code == 7
    assert await engine.wait_stopped(container, LINE_TIMEOUT_S) == 7


async def test_what_does_not_run_cannot_be_paused(engine: DockerEngine, start: Start) -> None:
    container = await start(running=False)
    with pytest.raises(Conflict):
        await checkpoint(engine, container, "cp")


async def test_what_runs_cannot_be_resumed(engine: DockerEngine, start: Start) -> None:
    container = await start()
    await checkpoint(engine, container, "cp", leave_running=True)
    with pytest.raises(Conflict):
        await restore(engine, container, "cp")
    assert (await engine.inspect(container)).running


async def test_an_unknown_checkpoint_is_not_found(engine: DockerEngine, start: Start) -> None:
    container = await start(running=False)
    with pytest.raises(NotFound):
        await restore(engine, container, "nope")
    with pytest.raises(InvalidName):
        await restore(engine, container, "../nope")


async def test_a_checkpoint_is_not_overwritten(engine: DockerEngine, start: Start) -> None:
    container = await start()
    await checkpoint(engine, container, "cp", leave_running=True)
    with pytest.raises(NameTaken):
        await checkpoint(engine, container, "cp")
    assert (await engine.inspect(container)).running


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tty": True}, "TTY"),
        ({"auto_remove": True}, "auto-remove"),
        ({"network": "none"}, "network"),
    ],
)
async def test_what_would_not_resume_is_refused_up_front(
    engine: DockerEngine, start: Start, changes: Changes, reason: str
) -> None:
    container = await start(**changes)
    with pytest.raises(NotSupported) as caught:
        await checkpoint(engine, container, "cp")
    assert reason in caught.value.details
    assert caught.value.resolution
    assert (await engine.inspect(container)).running
    assert await engine.checkpoints(container) == []


async def test_the_doctors_own_verification_leaves_nothing(
    dockerd: PrivateDockerd, engine: DockerEngine
) -> None:
    before = len(list((dockerd.data_root / "containers").iterdir()))
    verified = await verify(engine)
    assert verified.count_after == verified.count_before + 1
    assert len(list((dockerd.data_root / "containers").iterdir())) == before
