"""A dump or a restore that hangs is ended: the container runs on, nothing of the work is left."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from tests.criu.conftest import Start, counted
from tests.support.dockerd import CRIU_WRAPPER, PrivateDockerd
from tests.support.eventually import until

from warmboot.criu.checkpoint import checkpoint, recover
from warmboot.criu.containerd import RestoreCopies, scratch_folders, work_in
from warmboot.criu.in_progress import Limits, Work, unless_it_hangs, until_quiet
from warmboot.criu.restore import restore, salt
from warmboot.criu.runtime_work import end_work, runtimes_at_work, stopped_in
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointError, Conflict

pytestmark = [pytest.mark.docker, pytest.mark.root]

WITH_A_STOPPED_CHILD = (
    "sleep 1000 & kill -STOP $!; s=$(head -c 8 /dev/urandom | od -An -tx1 | head -c 24); i=0; "
    'while true; do i=$((i+1)); echo "$s $i"; sleep 0.1; done'
)


async def _work(engine: DockerEngine, container: str) -> Work:
    facts, found = await engine.facts(), await engine.inspect(container)
    return Work(facts, engine.socket, container, ("cp",), found.pid)


async def test_a_worker_with_a_stopped_child_is_refused_at_once_and_runs_on(
    engine: DockerEngine, start: Start
) -> None:
    container = await start(script=WITH_A_STOPPED_CHILD)
    secret, seen = await counted(engine, container)
    pid = (await engine.inspect(container)).pid
    ((stopped, name),) = stopped_in(container, pid).items()  # the shell's copy, or sleep already
    if (await engine.facts()).cgroup_version != "1":
        pytest.skip("version 2 of cgroups freezes what is stopped, too")
    with pytest.raises(Conflict, match="keeps running") as caught:
        await checkpoint(engine, container, "cp")
    assert f"{stopped} ({name})" in caught.value.details
    assert "kill -CONT" in caught.value.resolution
    assert await counted(engine, container, beyond=seen + 2) == (secret, seen + 3)


async def test_a_dump_that_hangs_is_ended_and_the_container_thawed(
    engine: DockerEngine, start: Start
) -> None:
    """The child is stopped after the look for stopped ones, as it were."""
    container = await start(script=WITH_A_STOPPED_CHILD)
    secret, seen = await counted(engine, container)
    work = await _work(engine, container)
    call = engine.dump(container, "cp", leave_running=False)
    with pytest.raises(CheckpointError, match=r"nothing of it had moved for 1 s"):
        await unless_it_hangs(work, call, Limits(1.0))
    assert runtimes_at_work(container) == []
    await recover(engine, container, "cp")
    assert (await counted(engine, container, beyond=seen + 2))[0] == secret
    assert await engine.checkpoints(container) == []


async def test_what_hangs_is_removed_when_its_work_is_ended(
    engine: DockerEngine, start: Start
) -> None:
    container = await start(script=WITH_A_STOPPED_CHILD)
    await counted(engine, container)
    dump = asyncio.create_task(engine.dump(container, "cp", leave_running=False))
    await until(lambda: bool(runtimes_at_work(container)))
    async with asyncio.timeout(60):
        await end_work(container, (await engine.inspect(container)).pid)
        with pytest.raises(CheckpointError):
            await dump
        await engine.remove(container)


async def test_what_an_earlier_manager_has_left_hanging_is_ended_too(
    engine: DockerEngine, start: Start
) -> None:
    container = await start(script=WITH_A_STOPPED_CHILD)
    secret, seen = await counted(engine, container)
    dump = asyncio.create_task(engine.dump(container, "cp", leave_running=False))
    try:
        await until(lambda: bool(runtimes_at_work(container)))
        async with asyncio.timeout(60):
            await until_quiet(await _work(engine, container), hangs_after_s=1.0)
        assert runtimes_at_work(container) == []
        assert (await counted(engine, container, beyond=seen))[0] == secret
    finally:
        await asyncio.wait({dump})
    assert isinstance(dump.exception(), CheckpointError)


async def test_a_restore_that_hangs_is_ended_and_its_checkpoint_kept(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    container = await start()
    secret, _ = await counted(engine, container, beyond=2)
    await checkpoint(engine, container, "cp")
    hangs = tmp_path / "criu"
    hangs.write_text(f'#!/bin/sh\n[ "$1" = swrk ] && exec sleep 1000\nexec {CRIU_WRAPPER} "$@"\n')
    hangs.chmod(0o755)
    await dockerd.stop()
    dockerd.criu_wrapper = hangs
    await dockerd.start()
    try:
        with pytest.raises(CheckpointError, match="kept") as caught:
            await restore(engine, container, "cp", limits=Limits(1.0))
        assert "nothing of it had moved" in caught.value.details
        assert runtimes_at_work(container) == []
    finally:
        await dockerd.stop()
        dockerd.criu_wrapper = CRIU_WRAPPER
        await dockerd.start()
    await restore(engine, container, "cp")
    assert (await counted(engine, container))[0] == secret


async def test_a_resume_leaves_no_copy_of_the_memory(engine: DockerEngine, start: Start) -> None:
    folders = scratch_folders(engine.socket)
    before = set(work_in(folders))
    container = await start()
    await counted(engine, container)
    for name in ("one", "two"):
        await checkpoint(engine, container, name)
        await restore(engine, container, name)
    assert folders
    assert set(work_in(folders)) - before == set()


async def test_a_copy_that_somebody_else_has_left_is_found_and_removed(
    engine: DockerEngine, start: Start
) -> None:
    folders = scratch_folders(engine.socket)
    before = set(work_in(folders))
    container = await start()
    await counted(engine, container)
    salt((await checkpoint(engine, container, "cp")).folder)
    await engine.start_from(container, "cp")  # as a user's `docker start --checkpoint`
    (left,) = set(work_in(folders)) - before
    copies = RestoreCopies(engine.socket)
    (found,) = (one for one in copies.find() if one.path == left)
    assert found.size_bytes > 10_000
    descriptor = os.open(left / "inventory.img", os.O_RDONLY)
    try:
        assert left not in [one.path for one in copies.find()]
        assert not copies.remove(found), "somebody has a file of it open"
    finally:
        os.close(descriptor)
    assert copies.remove(found)
    assert not left.exists()
