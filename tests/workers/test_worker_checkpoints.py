"""Checkpoints of workers on the runtime of ours: where they lie, what they take, how they move."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.eventually import eventually
from tests.support.file_trees import seen
from tests.support.ports import free_port
from tests.support.served import served, worker_settings
from tests.workers.conftest import (
    counted,
    dockerd_with_runtime,
    last_count,
    remove_all,
    start_on,
)
from tests.workers.test_worker_refusals import small_disk

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine
from warmboot.manager.workers.worker_states import WorkerStates
from warmboot.model.checkpoint import AS_IT_WAS
from warmboot.model.errors import (
    CheckpointTimeout,
    Conflict,
    DiskFull,
    NotFound,
    NotSupported,
    WarmbootError,
)

MIB = 1 << 20

pytestmark = [pytest.mark.docker, pytest.mark.root]


@pytest.fixture(scope="module")
async def dockerd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrivateDockerd]:
    async with dockerd_with_runtime(tmp_path_factory.mktemp("runtime")) as running:
        yield running


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

    async def measured() -> dict[str, int] | None:
        found = {c.name: c.stored_bytes for c in await client.workers.checkpoints(worker_id)}
        sizes = {name: size for name, size in found.items() if size is not None}
        return sizes if len(sizes) == len(found) else None

    return await eventually(measured, "all checkpoints are measured")


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
        workers = it.manager.services.workers
        assert workers is not None
        with pytest.raises(CheckpointTimeout, match="checkpoint is kept"):
            # It is not unpacked by then; the API has no limit as short as that.
            await workers.resume(worker.id, None, AS_IT_WAS, 0.001)
        assert (await it.client.workers.get(worker.id)).state == "paused"
        await it.client.workers.resume(worker.id)
        assert await counted(it.client, worker.id, beyond=before) == (secret, before + 1)
        await remove_all(it.client)


async def _event(client: Client, worker_id: str, kind: str) -> None:
    # At low priority it has what others leave.
    async with asyncio.timeout(300), client.events.follow(0, [kind]) as events:
        async for event in events:
            if event.subject_id == worker_id:
                return


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


async def test_what_cannot_travel_fails_the_export_by_name_before_anything_is_read(
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
    assert not (tmp_path / "s" / "checkpoint-archives").exists(), "it takes no room"


async def test_a_folder_that_was_removed_by_hand_is_told_with_what_to_do(
    client: Client, engine: DockerEngine, tmp_path: Path
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.create_checkpoint(worker.id, "older")
    await client.workers.pause(worker.id, "gone")
    shutil.rmtree(tmp_path / "s" / "checkpoints" / worker.id / "gone")
    with pytest.raises(NotFound, match="no checkpoint gone") as caught:
        await client.workers.resume(worker.id)
    assert f"`warmboot worker resume {worker.id} -c NAME`" in caught.value.resolution
    assert (await client.workers.get(worker.id)).state == "paused"
    assert (await client.workers.resume(worker.id, "older")).state == "running"
    assert (await counted(client, worker.id))[0] == secret


async def test_a_full_checkpoint_disk_leaves_it_running_with_its_old_checkpoint(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    async with small_disk(tmp_path / "small", 200) as disk:
        root = disk / "checkpoints"
        settings = worker_settings(
            tmp_path / "s", dockerd.socket, free_port(), checkpoint_root=root
        )
        async with served(settings) as it:
            worker = await start_on(it.client, engine)
            await counted(it.client, worker.id, beyond=2)
            await it.client.workers.create_checkpoint(worker.id, "before")
            pid = (await engine.inspect(worker.docker_id or "")).pid
            filler = disk / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - (8 * MIB))
            with pytest.raises(DiskFull):
                await it.client.workers.pause(worker.id, "after")
            assert (await it.client.workers.get(worker.id)).state == "running"
            assert (await engine.inspect(worker.docker_id or "")).pid == pid
            kept = [one.name for one in await it.client.workers.checkpoints(worker.id)]
            assert kept == ["before"]
            filler.unlink()
            await it.client.workers.pause(worker.id, "after")
            assert (await it.client.workers.resume(worker.id, "before")).state == "running"
            await remove_all(it.client)


async def test_an_import_that_could_not_be_recorded_leaves_nothing_and_is_done_again(
    client: Client, engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await start_on(client, engine)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id, "leaving")
    archive = tmp_path / "leaving.tar.zst"
    await client.workers.export_checkpoint(worker.id, "leaving", archive)
    moved = await client.workers.create(image=worker.image, name="moved", start=False)
    await client.workers.wait(moved, "settled", 60)

    async def fails(*_: object, **__: object) -> None:
        raise Conflict("the state could not be recorded")

    with monkeypatch.context() as patched:
        patched.setattr(WorkerStates, "record", fails)
        with pytest.raises(Conflict, match="could not be recorded"):
            await client.workers.import_checkpoint(moved, archive, "arrived")
    assert await client.workers.checkpoints(moved) == []
    place = tmp_path / "s" / "checkpoints" / moved
    assert [path.name for path in place.iterdir() if not path.name.startswith(".")] == []
    await client.workers.import_checkpoint(moved, archive, "arrived")
    assert (await client.workers.get(moved)).state == "paused"
    await client.workers.resume(moved)
    assert (await counted(client, moved))[0] == secret
