"""Workers on the runtime of ours: paused by runc, resumed by a plain start, past the engine.

The engine is not in experimental mode, so nothing here can be done by its own checkpoints.
"""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.file_trees import seen
from tests.support.served import Served, free_port, served, worker_settings
from tests.workers.conftest import (
    counted,
    event_kinds,
    last_count,
    lines,
    parsed,
    remove_all,
    start_on,
)

from warmboot.client import Client
from warmboot.criu.runtime.orders import ROOT
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import CheckpointError, NotSupported, WarmbootError

MIB = 1 << 20

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.fixture(scope="module")
async def dockerd(runtime_dockerd: PrivateDockerd) -> PrivateDockerd:
    return runtime_dockerd


@pytest.fixture
async def it(dockerd: PrivateDockerd, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(worker_settings(tmp_path / "s", dockerd.socket, free_port())) as running:
        yield running
        await remove_all(running.client)


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
    await engine.start(worker.docker_id or "")
    assert await counted(client, worker.id, beyond=before) == (secret, before + 1)
    pid = (await engine.inspect(worker.docker_id or "")).pid
    assert (await client.workers.resume(worker.id)).state == "running"
    assert (await engine.inspect(worker.docker_id or "")).pid == pid, "it had been resumed"


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
    async with asyncio.timeout(60):
        while len(await lines(client, worker.id)) <= seen:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.05)
    went_on = parsed((await lines(client, worker.id))[seen])
    assert went_on[0] == secret
    assert went_on[1] <= early + 3


async def test_a_worker_that_was_killed_is_resumed_from_its_checkpoint(
    client: Client, engine: DockerEngine
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.create_checkpoint(worker.id)
    await engine.kill(worker.docker_id or "")
    await client.workers.wait(worker.id, "exited", 60)
    seen = len(await lines(client, worker.id))
    assert (await client.workers.resume(worker.id)).state == "running"
    async with asyncio.timeout(60):
        while len(await lines(client, worker.id)) <= seen:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.05)
    assert parsed((await lines(client, worker.id))[seen])[0] == secret


async def test_a_paused_worker_outlives_a_restart_of_the_engine(
    client: Client, engine: DockerEngine, dockerd: PrivateDockerd
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id)
    _, before = await last_count(client, worker.id)
    await dockerd.stop()
    await dockerd.start()
    assert (await client.workers.resume(worker.id)).state == "running"
    assert await counted(client, worker.id, beyond=before) == (secret, before + 1)


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


def _flip(path: Path) -> None:
    """One bit, in the middle; or back."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on another file system than the engine's and the manager's."""
    with tempfile.TemporaryDirectory(prefix="warmboot-", dir="/dev/shm") as folder:
        yield Path(folder)


async def test_checkpoints_may_be_on_another_disk(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path, disk: Path
) -> None:
    assert disk.stat().st_dev != tmp_path.stat().st_dev
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port(), checkpoint_root=disk)
    async with served(settings) as it:
        worker = await start_on(it.client, engine)
        await counted(it.client, worker.id, beyond=2)
        await it.client.workers.create_checkpoint(worker.id, "older")
        await it.client.workers.pause(worker.id, "newer")
        assert {path.name for path in (disk / worker.id).iterdir()} >= {"older", "newer"}
        measured = await _measured(it.client, worker.id)
        assert all(one > (64 << 10) for one in measured.values())
        await it.client.workers.resume(worker.id, "older")
        assert (await it.client.workers.get(worker.id)).state == "running"
        await remove_all(it.client)
        assert list(disk.iterdir()) == []


async def _measured(client: Client, worker_id: str) -> dict[str, int]:
    """What each checkpoint takes, once that is known."""
    async with asyncio.timeout(60):
        while True:
            found = {c.name: c.stored_bytes for c in await client.workers.checkpoints(worker_id)}
            if None not in found.values():
                return {name: size for name, size in found.items() if size is not None}
            await asyncio.sleep(0.05)


async def test_a_paused_workers_cold_checkpoint_is_compressed_and_resumed(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port(), compress_after_h=1e-4)
    async with served(settings) as it:
        worker = await start_on(it.client, engine)
        secret, _ = await counted(it.client, worker.id, beyond=2)
        await it.client.workers.pause(worker.id, "cold")
        _, before = await last_count(it.client, worker.id)
        await _event(it.client, worker.id, "worker.checkpoint-compressed")
        memory = tmp_path / "s" / "checkpoints" / worker.id / "cold" / "memory"
        assert list(memory.glob("pages-*.img.zst"))
        assert not list(memory.glob("pages-*.img"))
        with pytest.raises(WarmbootError) as caught:
            await engine.start_restored(worker.docker_id or "")
        assert "warmboot worker resume" in caught.value.details
        await it.client.workers.resume(worker.id)
        assert await counted(it.client, worker.id, beyond=before) == (secret, before + 1)
        await remove_all(it.client)


async def _event(client: Client, worker_id: str, kind: str) -> None:
    async with asyncio.timeout(60):
        while True:
            if kind in await event_kinds(client, worker_id):
                return
            await asyncio.sleep(0.05)


ALL_KINDS = (
    "mkdir -p /var/t; cd /var/t; echo x > a; ln a b; mkfifo p; exec 4<>p; ln p p2; chown 7:8 p; "
    "ln -s /nowhere s; mknod null c 1 3; chmod 4755 a; "
    "dd if=/dev/zero of=holes bs=1 count=1 seek=64M 2>/dev/null; "
    "echo y > \"$(printf 'caf\\351')\"; rm -f /bin/nc; rm -rf /tmp; mkdir /tmp; exec 3>log; "
    "s=$(head -c 8 /dev/urandom | od -An -tx1 | head -c 24); i=0; "
    'while true; do i=$((i+1)); echo $i >&3; echo "$s $i"; sleep 0.1; done'
)


async def test_a_worker_moves_with_files_of_every_kind(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine, script=ALL_KINDS)
    secret, _ = await counted(client, worker.id, beyond=3)
    await client.workers.pause(worker.id, "leaving")
    _, before = await last_count(client, worker.id)
    archive = tmp_path / "leaving.tar.zst"
    await client.workers.export_checkpoint(worker.id, "leaving", archive)
    there = (await engine.inspect(worker.docker_id or "")).upper_folder
    assert there is not None
    files = seen(there)
    assert {b"/var/t/p2", b"/var/t/null", b"/var/t/caf\xe9", b"/bin/nc"} <= set(files)
    moved = await client.workers.create(image=worker.image, name="moved", start=False)
    await client.workers.wait(moved, "settled", 60)
    await client.workers.import_checkpoint(moved, archive, "arrived")
    kept = tmp_path / "s" / "checkpoints" / moved / "arrived" / "files"
    assert seen(kept) == files
    assert (kept / "var" / "t" / "holes").stat().st_blocks * 512 < MIB
    await client.workers.resume(moved)
    assert await counted(client, moved, beyond=before) == (secret, before + 1)
    # It has memory and files, as any other: so it can be resumed from again, later on.
    await client.workers.pause(moved, "second")
    await client.workers.resume(moved, "arrived")
    assert await counted(client, moved, beyond=before) == (secret, before + 1)
    here = (await engine.inspect((await client.workers.get(moved)).docker_id or "")).upper_folder
    assert here is not None
    assert set(seen(here)) == set(files)


def _make_block_device(upper: Path) -> None:
    os.mknod(upper / "disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))


async def test_what_cannot_travel_fails_the_export_by_name_before_sums_are_taken(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    await counted(client, worker.id, beyond=1)
    await client.workers.pause(worker.id, "cp")
    folder = tmp_path / "s" / "checkpoints" / worker.id / "cp"
    _make_block_device(folder / "files")
    with (folder / "memory" / "pages-1.img").open("r+b") as pages:  # it would be found, too
        first = pages.read(1)
        pages.seek(0)
        pages.write(bytes([first[0] ^ 1]))
    with pytest.raises(NotSupported, match="/disk cannot be exported"):
        await client.workers.export_checkpoint(worker.id, "cp", tmp_path / "cp.tar.zst")
    assert list((tmp_path / "s" / "checkpoint-archives").iterdir()) == []
