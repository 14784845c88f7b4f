"""A checkpoint leaves one worker as a file and comes into another; what does not fit is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.support.dockerd import PrivateDockerd
from tests.support.ports import free_port
from tests.support.served import served, worker_settings
from tests.workers.conftest import COUNTER, Start, counted, last_count, remove_all, start_on

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import (
    Conflict,
    DiskFull,
    InvalidRequest,
    NotFound,
    NotSupported,
    WarmbootError,
)
from warmboot.system.programs import run_program

pytestmark = [pytest.mark.docker, pytest.mark.root]


async def _fresh(client: Client, name: str, image: str = COUNTER) -> str:
    worker_id = await client.workers.create(image=image, name=name, start=False)
    worker = await client.workers.wait(worker_id, "settled", 60)
    assert (worker.state, worker.error) == ("creating", None)
    return worker_id


async def test_a_worker_moves_with_its_memory(client: Client, start: Start, tmp_path: Path) -> None:
    worker = await start()
    secret, _ = await counted(client, worker.id, beyond=3)
    await client.workers.pause(worker.id, "leaving")
    _, before = await last_count(client, worker.id)
    archive = tmp_path / "leaving.tar.zst"
    await client.workers.export_checkpoint(worker.id, "leaving", archive)
    await client.workers.delete(worker.id)
    moved = await _fresh(client, "moved")
    made = await client.workers.import_checkpoint(moved, archive, "arrived")
    again = await client.workers.import_checkpoint(moved, archive, "arrived")
    assert (made.name, again.id) == ("arrived", made.id)
    assert (await client.workers.get(moved)).state == "paused"
    await client.workers.resume(moved)
    assert await counted(client, moved) == (secret, before + 1)


async def test_an_archive_that_its_disk_cannot_hold_is_told_and_removed(
    client: Client, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    await client.workers.pause(worker.id, "leaving")
    small = tmp_path / "small"
    small.mkdir()
    await run_program("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", small)
    try:
        with pytest.raises(DiskFull, match="could not be written"):
            await client.workers.export_checkpoint(worker.id, "leaving", small / "cp.tar.zst")
        assert list(small.iterdir()) == []
    finally:
        await run_program("umount", small, check=False)


async def test_an_import_that_a_crash_interrupted_can_be_done_again(
    dockerd: PrivateDockerd, engine: DockerEngine, tmp_path: Path
) -> None:
    settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
    archive = tmp_path / "leaving.tar.zst"
    async with served(settings) as it:
        worker = await start_on(it.client, engine)
        await it.client.workers.pause(worker.id, "leaving")
        await it.client.workers.export_checkpoint(worker.id, "leaving", archive)
        fresh = await it.client.workers.get(await _fresh(it.client, "fresh"))
    # As if the manager had been killed before it could write down what it had brought in.
    folders = dockerd.data_root / "containers"
    shutil.copytree(
        folders / (worker.docker_id or "") / "checkpoints" / "leaving",
        folders / (fresh.docker_id or "") / "checkpoints" / "arrived",
    )
    async with served(settings) as it:
        await it.client.workers.import_checkpoint(fresh.id, archive, "arrived")
        assert (await it.client.workers.resume(fresh.id)).state == "running"
        await remove_all(it.client)


async def test_a_worker_with_a_mount_moves_into_one_that_has_it(
    client: Client, start: Start, tmp_path: Path
) -> None:
    mounts = [{"source": str(tmp_path), "target": "/data"}]
    worker = await start(mounts=mounts)
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id, "leaving")
    archive = tmp_path / "leaving.tar.zst"
    await client.workers.export_checkpoint(worker.id, "leaving", archive)
    bare = await _fresh(client, "bare")
    with pytest.raises(NotSupported) as caught:
        await client.workers.import_checkpoint(bare, archive)
    assert "a mount at /data" in caught.value.details
    assert "same mounts" in caught.value.resolution
    assert await client.workers.checkpoints(bare) == []
    moved = await client.workers.create(image=COUNTER, name="moved", start=False, mounts=mounts)
    await client.workers.wait(moved, "settled", 60)
    await client.workers.import_checkpoint(moved, archive)
    await client.workers.resume(moved)
    assert (await counted(client, moved))[0] == secret


async def test_what_runs_is_not_exported(client: Client, start: Start, tmp_path: Path) -> None:
    worker = await start()
    await client.workers.create_checkpoint(worker.id, "cp")
    target = tmp_path / "cp.tar.zst"
    with pytest.raises(Conflict):
        await client.workers.export_checkpoint(worker.id, "cp", target)
    await client.workers.pause(worker.id)
    with pytest.raises(NotFound):
        await client.workers.export_checkpoint(worker.id, "nope", target)
    assert list(tmp_path.glob("*.zst")) == []


async def test_what_does_not_fit_is_refused_and_changes_nothing(
    client: Client, start: Start, tmp_path: Path
) -> None:
    worker = await start()
    await client.workers.pause(worker.id, "leaving")
    archive = tmp_path / "leaving.tar.zst"
    await client.workers.export_checkpoint(worker.id, "leaving", archive)
    whole = archive.read_bytes()
    fresh = await _fresh(client, "fresh")
    broken = bytearray(whole)
    broken[len(broken) // 2] ^= 0xFF
    for content in (b"", b"no archive", whole[: len(whole) // 2], bytes(broken)):
        damaged = tmp_path / "damaged"
        damaged.write_bytes(content)
        with pytest.raises(WarmbootError) as caught:
            await client.workers.import_checkpoint(fresh, damaged, "arrived")
        assert caught.value.code in ("invalid-request", "checkpoint-error")
        assert caught.value.resolution
    with pytest.raises(Conflict):
        await client.workers.import_checkpoint(worker.id, archive, "arrived")
    with pytest.raises(InvalidRequest):
        await client.workers.import_checkpoint(fresh, archive, "../arrived")
    assert await client.workers.checkpoints(fresh) == []
    assert (await client.workers.get(fresh)).state == "creating"
    other = await start(script="while true; do sleep 1; done")
    foreign = await _fresh(client, "foreign", other.image)
    with pytest.raises(NotSupported, match="does not match"):
        await client.workers.import_checkpoint(foreign, archive)
    await client.workers.import_checkpoint(fresh, archive, "arrived")
    assert (await client.workers.resume(fresh)).state == "running"
