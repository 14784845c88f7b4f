"""Workers on the runtime of ours: paused by runc, resumed by a plain start, past the engine.

The engine is not in experimental mode, so nothing here can be done by its own checkpoints.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually, until
from tests.workers.conftest import (
    TIMEOUT_S,
    counted,
    event_kinds,
    events_of,
    goes_on,
    last_count,
    lines,
    nth_line,
    parsed,
    start_on,
)

from warmboot.client import Client, ManagerUnreachable
from warmboot.criu.continuity import memory_bytes
from warmboot.criu.runtime.dump import MASKED, masked_in
from warmboot.criu.runtime.orders import ROOT
from warmboot.criu.runtime.program import EMPTY
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointError, WarmbootError
from warmboot.system import procfs

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    return runtime_dockerd


async def test_memory_survives_a_pause_past_the_engine(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    docker_id = worker.docker_id or ""
    assert (await engine.inspect(docker_id)).runtime == worker.raw["runtime"] == "warmboot"
    secret, _ = await counted(client, worker.id, beyond=3)
    pid = (await engine.inspect(docker_id)).pid
    assert (await client.workers.pause(worker.id, "first")).state == "paused"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert (
        tmp_path / "s" / "checkpoints" / worker.id / "first" / "memory" / "inventory.img"
    ).exists()
    _, before = await last_count(client, worker.id)
    resumed = await client.workers.resume(worker.id)
    assert (resumed.state, resumed.paused_into, resumed.error) == ("running", None, None)
    assert await counted(client, worker.id, beyond=before) == (secret, before + 1)
    assert (await event_kinds(client, worker.id))[-4:] == [
        "worker.pausing",
        "worker.paused",
        "worker.resuming",
        "worker.running",
    ]


async def test_what_an_engine_hides_stays_hidden_and_is_in_no_checkpoint(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    secret, seen = await counted(client, worker.id)
    saved, there = set(), {one for one in MASKED if Path(one).is_dir()}
    for name in ("first", "second"):  # at the second it is a restore that hides
        pid = (await engine.inspect(worker.docker_id or "")).pid
        assert set(masked_in(pid)) == there
        mounts = [line.split(" ") for line in procfs.lines(Path("/proc", str(pid), "mountinfo"))]
        whole = [words for words in mounts if words[3] == "/" and "tmpfs" in words]
        saved = {words[4] for words in whole} - there
        await client.workers.pause(worker.id, name)
        memory = tmp_path / "s" / "checkpoints" / worker.id / name / "memory"
        assert len(list(memory.glob("tmpfs-dev-*"))) == len(saved)
        shutil.rmtree(EMPTY, ignore_errors=True)  # as after a reboot
        if name == "first":
            await client.workers.resume(worker.id)
        else:
            await engine.start(worker.docker_id or "")
            await client.workers.wait(worker.id, "running", TIMEOUT_S)
        found, seen = await counted(client, worker.id, beyond=seen)
        assert found == secret
    pid = (await engine.inspect(worker.docker_id or "")).pid
    assert set(masked_in(pid)) == there, "empty, and read-only"
    assert "/dev/shm" in saved


async def test_nothing_is_left_of_a_worker_that_is_removed(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    await client.workers.pause(worker.id)
    await client.workers.delete(worker.id)
    assert list((tmp_path / "s" / "checkpoints").iterdir()) == []
    assert not (ROOT / (worker.docker_id or "")).exists()


async def test_a_start_by_hand_resumes_a_paused_worker(
    client: Client, engine: DockerEngine
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id)
    _, before = await last_count(client, worker.id)
    paused_into = (await client.workers.checkpoints(worker.id))[0].name
    await engine.start(worker.docker_id or "")
    assert (await client.workers.wait(worker.id, "running", 60)).state == "running"
    assert await counted(client, worker.id, beyond=before) == (secret, before + 1)
    told = (await events_of(client, worker.id, "worker.running"))[-1]
    assert (told["settled"], told["checkpoint"]) == (True, paused_into)
    await client.workers.pause(worker.id)
    await client.workers.resume(worker.id)
    await goes_on(client, worker.id, secret)


async def test_a_start_by_hand_while_the_engine_tells_nothing_is_noticed_afterwards(
    client: Client, engine: DockerEngine, dockerd: PrivateDockerd
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id)
    await client.workers.pause(worker.id)
    await dockerd.stop()
    await dockerd.start()
    await engine.start(worker.docker_id or "")
    assert (await client.workers.wait(worker.id, "running", 60)).state == "running"
    await goes_on(client, worker.id, secret)


async def test_an_older_checkpoint_is_resumed_and_the_order_is_for_that(
    client: Client, engine: DockerEngine
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.create_checkpoint(worker.id, "early")
    early = (await last_count(client, worker.id))[1]
    await counted(client, worker.id, beyond=early + 10)
    await client.workers.pause(worker.id, "late")
    seen = len(await lines(client, worker.id))
    await client.workers.resume(worker.id, "early")
    went_on = parsed(await nth_line(client, worker.id, seen))
    assert went_on[0] == secret
    assert went_on[1] <= early + 8


async def test_a_worker_that_was_killed_is_resumed_from_its_checkpoint(
    client: Client, engine: DockerEngine
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.create_checkpoint(worker.id)
    await engine.kill(worker.docker_id or "")
    await client.workers.wait(worker.id, "exited", 60)
    seen = len(await lines(client, worker.id))
    await engine.start(worker.docker_id or "")  # as a user does, or by a restart policy

    async def runs() -> bool:
        now = await client.workers.get(worker.id)
        return (now.state, now.exit_code) == ("running", None)

    await eventually(runs, "its start is noticed", TIMEOUT_S)
    assert parsed(await nth_line(client, worker.id, seen))[0] != secret, "from the beginning"
    assert (await events_of(client, worker.id, "worker.running"))[-1]["checkpoint"] is None
    await engine.kill(worker.docker_id or "")
    await client.workers.wait(worker.id, "exited", 60)
    seen = len(await lines(client, worker.id))
    assert (await client.workers.resume(worker.id)).state == "running"
    assert parsed(await nth_line(client, worker.id, seen))[0] == secret


async def test_a_pause_holds_against_a_restart_policy_and_a_restart_of_the_engine(
    client: Client, engine: DockerEngine, dockerd: PrivateDockerd
) -> None:
    worker = await start_on(client, engine)
    docker_id = worker.docker_id or ""
    secret, _ = await counted(client, worker.id, beyond=2)
    always = {"Name": "always", "MaximumRetryCount": 0}

    async def has_its_policy() -> bool:
        return (await engine.inspect(docker_id)).restart_policy == always

    async def stays_down() -> None:
        await engine.wait_stopped(docker_id, TIMEOUT_S)
        found = await engine.inspect(docker_id)
        assert (found.status, found.restarts) == ("exited", False), "so it is not started again"
        assert (await client.workers.get(worker.id)).state == "paused"

    await engine.set_restart_policy(docker_id, always)
    for _ in range(2):
        await client.workers.pause(worker.id)
        _, before = await last_count(client, worker.id)
        await stays_down()
        await dockerd.stop()
        await dockerd.start()  # answers when it has started what is to be started
        await stays_down()
        assert (await client.workers.resume(worker.id)).state == "running"
        assert await counted(client, worker.id, beyond=before) == (secret, before + 1)
        await eventually(has_its_policy, "its policy is given back", TIMEOUT_S)
    await client.workers.delete(worker.id, force=True)


async def test_twenty_workers_are_paused_and_resumed_at_once(
    client: Client, engine: DockerEngine
) -> None:
    workers = await asyncio.gather(*(start_on(client, engine) for _ in range(20)))
    secrets = {one.id: (await counted(client, one.id, beyond=1))[0] for one in workers}
    paused = await asyncio.gather(*(client.workers.pause(one.id) for one in workers))
    assert {one.state for one in paused} == {"paused"}
    before = {one.id: (await last_count(client, one.id))[1] for one in workers}
    resumed = await asyncio.gather(*(client.workers.resume(one.id) for one in workers))
    assert {one.state for one in resumed} == {"running"}
    for one in workers:
        went_on = await counted(client, one.id, beyond=before[one.id])
        assert went_on == (secrets[one.id], before[one.id] + 1)


async def test_a_flipped_bit_is_told_by_all_and_nothing_is_started(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    docker_id = worker.docker_id or ""
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id, "cp")
    _, before = await last_count(client, worker.id)
    memory = tmp_path / "s" / "checkpoints" / worker.id / "cp" / "memory"
    pages = max(memory.glob("pages-*.img"), key=lambda path: path.stat().st_size)
    _flip(pages)
    with pytest.raises(CheckpointError, match="damaged") as caught:
        await client.workers.resume(worker.id, "cp")
    assert f"{pages} is not what was written" in caught.value.details
    with pytest.raises(WarmbootError) as by_hand:
        await engine.start(docker_id)
    assert f"{pages} is not what was written" in str(by_hand.value) + by_hand.value.details
    with pytest.raises(CheckpointError, match="damaged"):
        await client.workers.export_checkpoint(worker.id, "cp", tmp_path / "cp.tar.zst")
    assert not (await engine.inspect(docker_id)).running
    assert (await client.workers.get(worker.id)).state == "paused"
    _flip(pages)
    assert (await client.workers.resume(worker.id)).state == "running"
    assert await counted(client, worker.id, beyond=before) == (secret, before + 1)


async def test_damage_that_an_export_meets_late_breaks_it_off(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    size_bytes = 48 << 20
    script = (
        f"( head -c {size_bytes} /dev/urandom; while sleep 1; do :; done ) | "
        f"dd of=/dev/null bs={size_bytes} iflag=fullblock"
    )
    worker = await start_on(client, engine, script)
    pid = (await engine.inspect(worker.docker_id or "")).pid
    await until(lambda: memory_bytes(pid) >= size_bytes, "it has touched its memory", TIMEOUT_S)
    await client.workers.pause(worker.id, "cp")
    memory = tmp_path / "s" / "checkpoints" / worker.id / "cp" / "memory"
    _flip(max(memory.glob("pages-*.img"), key=lambda path: path.stat().st_size), 0.9)
    with pytest.raises(ManagerUnreachable, match="broke off"):
        await client.workers.export_checkpoint(worker.id, "cp", tmp_path / "cp.tar.zst")
    assert [path.name for path in tmp_path.iterdir() if "cp" in path.name] == []
    (failed,) = [
        one for one in await client.events.list(0, 1000) if one.kind == "worker.export-failed"
    ]
    assert "pages" in failed.data["error"]["details"]


def _flip(path: Path, where: float = 0.5) -> None:
    """One bit, in the middle; or back."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * where))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
