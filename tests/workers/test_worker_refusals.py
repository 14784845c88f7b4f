"""Bad input: a clear problem with a remedy, and worker and checkpoints are as before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.dockerd import PrivateDockerd, private_dockerd
from tests.support.ports import free_port
from tests.support.served import Served, served, worker_settings
from tests.workers.conftest import Start, counted, last_count, start_on, wait_for_line

from warmboot.client import Client
from warmboot.docker.engine import DockerEngine
from warmboot.model.errors import (
    CheckpointError,
    CheckpointRefused,
    Conflict,
    DiskFull,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    NotSupported,
    Unavailable,
    WarmbootError,
)
from warmboot.system.programs import run_program

pytestmark = [pytest.mark.docker, pytest.mark.root]

GHOST = (
    "exec 3>/ghost; rm /ghost; dd if=/dev/zero bs=1024 count=4096 >&3 2>/dev/null; "
    "echo ready; while true; do sleep 1; done"
)


def explained(error: WarmbootError) -> bool:
    return bool(error.brief and error.resolution)


async def test_what_is_paused_is_not_paused_again(client: Client, start: Start) -> None:
    worker = await start()
    await client.workers.pause(worker.id, "first")
    with pytest.raises(Conflict, match="is paused, so it cannot be paused") as caught:
        await client.workers.pause(worker.id)
    assert "resume" in caught.value.resolution
    assert [one.name for one in await client.workers.checkpoints(worker.id)] == ["first"]


async def test_what_runs_is_not_resumed(client: Client, start: Start) -> None:
    worker = await start()
    await client.workers.create_checkpoint(worker.id, "first")
    with pytest.raises(Conflict, match="is running, so it cannot be resumed") as caught:
        await client.workers.resume(worker.id)
    assert "pause" in caught.value.resolution
    await counted(client, worker.id, beyond=1)


async def test_an_unknown_checkpoint_changes_nothing(client: Client, start: Start) -> None:
    worker = await start()
    await client.workers.pause(worker.id)
    with pytest.raises(NotFound) as caught:
        await client.workers.resume(worker.id, "nope")
    assert explained(caught.value)
    assert (await client.workers.get(worker.id)).state == "paused"
    assert (await client.workers.resume(worker.id)).state == "running"


@pytest.mark.parametrize("name", ["a/b", "../up", "..", "x..y", "-x", "y" * 64, "z", "a b"])
async def test_a_bad_name_of_a_checkpoint_is_refused(it: Served, start: Start, name: str) -> None:
    worker = await start()
    for path, body in (("pause", {"checkpoint": name}), ("checkpoints", {"name": name})):
        async with httpx.AsyncClient(base_url=it.url, timeout=60) as http:
            answer = await http.post(f"/v1/workers/{worker.id}/{path}", json=body)
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["resolution"]
    assert (await it.client.workers.get(worker.id)).state == "running"
    assert await it.client.workers.checkpoints(worker.id) == []


@pytest.mark.parametrize("name", ["a/b", "..", "../x", ""])
async def test_a_bad_name_of_a_worker_is_refused(client: Client, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await client.workers.create(image="warmboot-test/counter:1", name=name)
    assert await client.workers.list() == []


async def test_of_two_pauses_at_once_one_is_refused(client: Client, start: Start) -> None:
    worker = await start()
    outcomes = await asyncio.gather(
        client.workers.pause(worker.id), client.workers.pause(worker.id), return_exceptions=True
    )
    assert sorted(isinstance(one, Conflict) for one in outcomes) == [False, True]
    assert len(await client.workers.checkpoints(worker.id)) == 1
    assert (await client.workers.get(worker.id)).state == "paused"


async def test_a_dump_that_fails_leaves_it_running_with_crius_lines(
    client: Client, start: Start
) -> None:
    worker = await start(script=GHOST)
    await wait_for_line(client, worker.id, lambda line: line == "ready")
    with pytest.raises(CheckpointRefused, match="it keeps running") as caught:
        await client.workers.pause(worker.id)
    assert caught.value.details.startswith("a process in it has a large file open")
    assert "Error (criu/" in caught.value.details
    now = await client.workers.get(worker.id)
    assert now.state == "running"
    assert (now.error or {})["code"] == "checkpoint-refused"
    assert await client.workers.checkpoints(worker.id) == []


async def test_a_restore_that_fails_can_be_tried_again(
    client: Client, start: Start, dockerd: PrivateDockerd
) -> None:
    worker = await start()
    secret, _ = await counted(client, worker.id, beyond=2)
    await client.workers.pause(worker.id, "only")
    folder = dockerd.data_root / "containers" / (worker.docker_id or "") / "checkpoints" / "only"
    broken = folder / "seccomp.img"
    whole = broken.read_bytes()
    broken.write_bytes(b"\0" * len(whole))
    with pytest.raises(CheckpointError, match="kept") as caught:
        await client.workers.resume(worker.id)
    assert "Error (criu/" in caught.value.details
    now = await client.workers.get(worker.id)
    assert now.state == "paused"
    assert now.error is not None
    broken.write_bytes(whole)
    assert (await client.workers.resume(worker.id)).error is None
    assert (await counted(client, worker.id))[0] == secret


async def test_the_checkpoint_that_it_is_kept_in_stays(client: Client, start: Start) -> None:
    worker = await start()
    await client.workers.pause(worker.id, "only")
    with pytest.raises(InUse) as caught:
        await client.workers.delete_checkpoint(worker.id, "only")
    assert explained(caught.value)
    assert (await client.workers.resume(worker.id)).state == "running"
    await client.workers.delete_checkpoint(worker.id, "only")


async def test_a_name_that_is_taken_is_refused(client: Client, start: Start) -> None:
    worker = await start()
    with pytest.raises(NameTaken):
        await client.workers.create(image="warmboot-test/counter:1", name=worker.name)
    await client.workers.create_checkpoint(worker.id, "one")
    with pytest.raises(NameTaken):
        await client.workers.pause(worker.id, "one")
    assert (await client.workers.get(worker.id)).state == "running"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tty": True}, "TTY"),
        ({"auto_remove": True}, "auto-remove"),
        ({"network": "bridge"}, "network"),
    ],
)
async def test_what_would_not_resume_is_not_begun(
    client: Client, fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotSupported) as caught:
        await client.workers.create(image="warmboot-test/counter:1", **fields)
    assert reason in caught.value.details
    assert caught.value.resolution
    assert await client.workers.list() == []


@pytest.mark.parametrize(
    "mount",
    [
        {"source": "/no/such/folder", "target": "/data"},
        {"source": "/tmp/../etc", "target": "/data"},
        {"source": "tmp", "target": "/data"},
        {"source": "/tmp", "target": "/"},
    ],
)
async def test_a_mount_that_cannot_be_is_refused(client: Client, mount: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        await client.workers.create(image="warmboot-test/counter:1", mounts=[mount])
    assert await client.workers.list() == []


async def test_an_image_that_nobody_has_is_told(client: Client) -> None:
    worker_id = await client.workers.create(image="localhost:1/no/such:1", name="noimage")
    worker = await client.workers.wait(worker_id, "settled", 60)
    assert worker.state == "failed"
    assert worker.error
    assert worker.error["code"] == "registry-unavailable"
    assert "docker load" in worker.error["resolution"]


async def test_a_running_worker_is_removed_by_force_only(client: Client, start: Start) -> None:
    worker = await start()
    with pytest.raises(InUse):
        await client.workers.delete(worker.id)
    await counted(client, worker.id, beyond=1)


async def test_without_an_engine_workers_are_unavailable_and_the_rest_works(
    tmp_path: Path,
) -> None:
    settings = worker_settings(tmp_path / "s", tmp_path / "no.sock", free_port())
    async with served(settings) as it:
        with pytest.raises(Unavailable) as caught:
            await it.client.workers.create(image="app:1")
        assert caught.value.code == "engine-unavailable"
        assert "warmboot doctor" in caught.value.resolution
        assert await it.client.workers.list() == []
        assert (await it.client.system.info())["hypervisor"] == "simulated"
        checks = {check.name: check for check in await it.client.system.doctor()}
        assert not checks["workers: engine"].ok
        assert not checks["workers: engine"].required


@contextlib.asynccontextmanager
async def small_disk(path: Path, mib: int) -> AsyncIterator[Path]:
    """A file system of its own at ``path``."""
    path.mkdir()
    await run_program("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", path)
    try:
        yield path
    finally:
        await run_program("umount", "--lazy", path, check=False)


HOLDS_32M = (
    f"( head -c {32 << 20} /dev/urandom; echo ready >&2; while sleep 1; do :; done ) | "
    f"dd of=/dev/null bs={32 << 20} iflag=fullblock"
)


async def _given_back(disk: Path) -> None:
    """The engine still removes what a dump needed when the worker is paused already."""
    async with asyncio.timeout(60):
        free_bytes = -1
        while (now := shutil.disk_usage(disk).free) != free_bytes:
            free_bytes = now
            await asyncio.sleep(2)  # nothing tells when it has removed all


@pytest.mark.slow
async def test_a_full_disk_leaves_it_running_and_its_checkpoints_as_they_were(
    tmp_path: Path,
) -> None:
    async with (
        small_disk(tmp_path / "small", 200) as disk,
        private_dockerd(**{"data-root": str(disk)}) as dockerd,
        DockerEngine(dockerd.socket) as engine,
        served(worker_settings(tmp_path / "s", dockerd.socket, free_port())) as it,
    ):
        worker = await start_on(it.client, engine, HOLDS_32M, name="here")
        await wait_for_line(it.client, worker.id, lambda line: line == "ready")
        await it.client.workers.create_checkpoint(worker.id, "before")
        pid = (await engine.inspect(worker.docker_id or "")).pid
        filler = disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - (40 << 20))
        for act in (it.client.workers.pause, it.client.workers.create_checkpoint):
            with pytest.raises(DiskFull) as full:
                await act(worker.id, "after")
            assert "MiB are free" in full.value.details
            assert explained(full.value)
        now = await it.client.workers.get(worker.id)
        assert now.state == "running"
        assert (await engine.inspect(worker.docker_id or "")).pid == pid
        assert [one.name for one in await it.client.workers.checkpoints(worker.id)] == ["before"]
        filler.unlink()
        assert (await it.client.workers.pause(worker.id, "after")).state == "paused"
        await _given_back(disk)
        with filler.open("wb") as file:  # not a byte is left: it cannot be resumed now
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free)
        with pytest.raises(DiskFull) as full:
            await it.client.workers.resume(worker.id)
        assert explained(full.value)
        assert (await it.client.workers.get(worker.id)).state == "paused"
        filler.unlink()
        assert (await it.client.workers.resume(worker.id)).state == "running"
        await it.client.workers.delete(worker.id, force=True)


async def test_a_full_folder_for_temporary_files_is_seen_before_the_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is containerd's, which need not be ours."""
    async with small_disk(tmp_path / "small", 1) as disk:
        monkeypatch.setenv("TMPDIR", str(disk))
        async with (
            private_dockerd() as dockerd,
            DockerEngine(dockerd.socket) as engine,
            served(worker_settings(tmp_path / "s", dockerd.socket, free_port())) as it,
        ):
            monkeypatch.delenv("TMPDIR")
            worker = await start_on(it.client, engine, "while true; do sleep 1; done")
            with pytest.raises(DiskFull) as full:
                await it.client.workers.pause(worker.id)
            assert str(disk) in full.value.details
            assert (await it.client.workers.get(worker.id)).state == "running"
            await it.client.workers.delete(worker.id, force=True)


@pytest.mark.slow
async def test_without_criu_a_worker_runs_on_and_the_remedy_is_named(tmp_path: Path) -> None:
    async with (
        private_dockerd() as dockerd,
        DockerEngine(dockerd.socket) as engine,
        served(worker_settings(tmp_path / "s", dockerd.socket, free_port())) as it,
    ):
        await dockerd.stop()
        await dockerd.start(criu=False)
        script = "echo ready; while true; do sleep 1; done"
        worker = await start_on(it.client, engine, script, name="there")
        with pytest.raises(CheckpointError) as missing:
            await it.client.workers.pause(worker.id)
        assert "doctor --fix" in missing.value.resolution
        assert (await it.client.workers.get(worker.id)).state == "running"
        await it.client.workers.delete(worker.id, force=True)


@pytest.mark.slow
async def test_an_engine_that_is_killed_and_comes_back_is_noticed(tmp_path: Path) -> None:
    async with private_dockerd() as dockerd:
        settings = worker_settings(tmp_path / "s", dockerd.socket, free_port())
        async with served(settings) as it, DockerEngine(dockerd.socket) as engine:
            sleeps = "while true; do sleep 1; done"
            runs = await start_on(it.client, engine, sleeps, name="runs")
            watched = await start_on(it.client, engine, sleeps, name="watched")
            kept = await start_on(
                it.client, engine, "i=0; while true; do i=$((i+1)); echo n $i; sleep 0.1; done"
            )
            await counted(it.client, kept.id, beyond=2)
            await it.client.workers.pause(kept.id)
            _, before = await last_count(it.client, kept.id)
            await dockerd.kill()
            with pytest.raises(Unavailable):
                await it.client.workers.resume(kept.id)
            with pytest.raises(Unavailable):
                await it.client.workers.pause(runs.id)
            await dockerd.start()
            # dockerd ends the containers of its predecessor; ours must have seen that.
            for worker in (runs, watched):
                assert (await it.client.workers.wait(worker.id, "exited", 60)).state == "exited"
            await it.client.workers.wait(kept.id, "paused", 60)
            await it.client.workers.resume(kept.id)
            assert await counted(it.client, kept.id, beyond=before) == ("n", before + 1)
            for worker in (runs, watched, kept):
                await it.client.workers.delete(worker.id, force=True)
