"""Docker's known bugs, made to happen, and that they do no harm."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from tests.criu.conftest import LINE_TIMEOUT_S, Start, counted, last_count, wait_for_line
from tests.support.dockerd import PrivateDockerd
from typing_extensions import override

from warmboot.criu.checkpoint import checkpoint, recover
from warmboot.criu.restore import restore
from warmboot.docker import content_store
from warmboot.docker.engine import DockerEngine
from warmboot.docker.facts import ContainerFacts
from warmboot.model.errors import (
    CheckpointError,
    CheckpointRefused,
    EngineUnavailable,
    NotFound,
)
from warmboot.system.programs import run_program

pytestmark = [pytest.mark.docker, pytest.mark.root]

GHOST = (
    "exec 3>/ghost; rm /ghost; dd if=/dev/zero bs=1024 count=4096 >&3 2>/dev/null; "
    "echo ready; while true; do sleep 1; done"
)


class Blobs:
    """Keeps a second name of everything that enters the engine's content store meanwhile."""

    def __init__(self, dockerd: PrivateDockerd, keep: Path) -> None:
        content = dockerd.data_root / "containerd/daemon/io.containerd.content.v1.content"
        self.folder, self.keep = content / "blobs/sha256", keep
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Blobs:
        self.keep.mkdir()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            for blob in self.folder.glob("*"):
                target = self.keep / blob.name
                if not target.exists():
                    try:
                        target.hardlink_to(blob)
                    except (FileNotFoundError, FileExistsError):
                        continue


async def _pin(dockerd: PrivateDockerd, blob: Path) -> None:
    """Put a blob (back) into the content store, safe from its collector.

    The collector may take it between the two steps as long as it is from the dump.
    """
    ctr = ["ctr", "--address", str(dockerd.containerd_socket), "-n", "moby", "content"]
    digest = f"sha256:{blob.name}"
    for _ in range(20):
        with blob.open("rb") as content:
            await asyncio.to_thread(
                subprocess.run,
                [*ctr, "ingest", f"--expected-digest={digest}", blob.name],
                stdin=content,
                capture_output=True,
                check=False,
                timeout=60,
            )
        if (await run_program(*ctr, "label", digest, "containerd.io/gc.root=test", check=False)).ok:
            return
    raise AssertionError(f"{digest} could not be pinned")


async def test_content_that_exists_already_does_not_stop_a_restore(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    container = await start()
    await counted(engine, container, beyond=1)
    keep = dockerd.data_root / f"blobs-{tmp_path.name}"
    try:
        with Blobs(dockerd, keep):
            await checkpoint(engine, container, "cp")
        kept = list(keep.iterdir())
        assert kept, "the dump never was in the content store"
        for blob in kept:
            await _pin(dockerd, blob)
        with pytest.raises(CheckpointError, match="already exists"):
            await engine.start_from(container, "cp")
        restored = await restore(engine, container, "cp")
    finally:
        shutil.rmtree(keep)
    assert restored.attempts == 1


async def _unpin(dockerd: PrivateDockerd, blob: Path) -> None:
    ctr = ["ctr", "--address", str(dockerd.containerd_socket), "-n", "moby", "content"]
    await run_program(*ctr, "rm", f"sha256:{blob.name}")


async def test_a_dump_waits_until_the_one_before_is_forgotten(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start, tmp_path: Path
) -> None:
    """containerd keeps the container's specification for a while, writes the same bytes again with
    the next dump, and fails when they are there: after CRIU has ended the process."""
    container = await start()
    secret, _ = await counted(engine, container, beyond=1)
    keep = dockerd.data_root / f"blobs-{tmp_path.name}"
    try:
        with Blobs(dockerd, keep):
            await checkpoint(engine, container, "cp1", leave_running=True)
        kept = [blob for blob in keep.iterdir() if b'"ociVersion"' in blob.read_bytes()]
        assert kept, "the specification never was in the content store"
        for blob in kept:
            await _pin(dockerd, blob)
        dumping = asyncio.create_task(checkpoint(engine, container, "cp2"))
        await asyncio.sleep(1)  # it would have failed by now
        assert not dumping.done()
        assert (await engine.inspect(container)).running
        for blob in kept:
            await _unpin(dockerd, blob)
        await dumping
    finally:
        shutil.rmtree(keep)
    await restore(engine, container, "cp2")
    _, before = await last_count(engine, container)
    assert (await counted(engine, container, beyond=before))[0] == secret


async def test_a_dump_that_would_end_the_process_for_nothing_is_not_begun(
    dockerd: PrivateDockerd,
    engine: DockerEngine,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(content_store, "GONE_TIMEOUT_S", 0.5)
    container = await start()
    keep = dockerd.data_root / f"blobs-{tmp_path.name}"
    try:
        with Blobs(dockerd, keep):
            await checkpoint(engine, container, "cp1", leave_running=True)
        kept = [blob for blob in keep.iterdir() if b'"ociVersion"' in blob.read_bytes()]
        for blob in kept:
            await _pin(dockerd, blob)
        with pytest.raises(CheckpointError, match="keeps running") as caught:
            await checkpoint(engine, container, "cp2")
        assert caught.value.resolution
        assert (await engine.inspect(container)).running
        for blob in kept:
            await _unpin(dockerd, blob)
        await checkpoint(engine, container, "cp2")
    finally:
        shutil.rmtree(keep)


class ForgetfulEngine(DockerEngine):
    """An engine with the bug of moby 41639: it says that it restored, and has not."""

    @override
    async def start_from(self, container: str, name: str) -> None:
        await self.start(container)


async def test_a_fresh_start_is_not_taken_for_a_restore(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start
) -> None:
    container = await start()
    secret, _ = await counted(engine, container, beyond=2)
    await checkpoint(engine, container, "cp")
    async with ForgetfulEngine(dockerd.socket) as forgetful:
        with pytest.raises(CheckpointError, match="started anew"):
            await restore(forgetful, container, "cp")
    await engine.wait_stopped(container, LINE_TIMEOUT_S)
    await restore(engine, container, "cp")
    _, before = await last_count(engine, container)
    assert (await counted(engine, container, beyond=before))[0] == secret


class SlowEngine(DockerEngine):
    """An engine that says for a while that a container runs whose process is gone already."""

    stale: ContainerFacts | None = None

    @override
    async def inspect(self, container: str) -> ContainerFacts:
        return self.stale or await super().inspect(container)

    @override
    async def wait_stopped(self, container: str, timeout_s: float | None = None) -> int:
        self.stale = None
        return await super().wait_stopped(container, timeout_s)


async def test_an_engine_that_has_not_yet_noticed_the_end_is_waited_for(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start
) -> None:
    container = await start()
    secret, _ = await counted(engine, container, beyond=1)
    async with SlowEngine(dockerd.socket) as slow:
        running = await engine.inspect(container)
        await checkpoint(engine, container, "cp")
        slow.stale = running
        await restore(slow, container, "cp")
    _, before = await last_count(engine, container)
    assert (await counted(engine, container, beyond=before))[0] == secret


async def test_a_dump_that_fails_leaves_it_running_and_says_why(
    engine: DockerEngine, start: Start
) -> None:
    container = await start(script=GHOST)
    await wait_for_line(engine, container, lambda line: line == "ready")
    pid = (await engine.inspect(container)).pid
    with pytest.raises(CheckpointRefused) as caught:
        await checkpoint(engine, container, "cp")
    assert "it keeps running" in caught.value.brief
    reason, *lines = caught.value.details.splitlines()
    assert reason == "a process in it has a large file open that was deleted"
    assert lines[0].startswith("Error (criu/")
    now = await engine.inspect(container)
    assert (now.running, now.pid) == (True, pid)
    assert await engine.checkpoints(container) == []


async def test_a_restore_that_fails_keeps_the_checkpoint(
    engine: DockerEngine, start: Start
) -> None:
    container = await start()
    secret, _ = await counted(engine, container, beyond=2)
    dumped = await checkpoint(engine, container, "cp")
    broken = dumped.folder / "seccomp.img"
    whole = broken.read_bytes()
    broken.write_bytes(b"\0" * len(whole))
    with pytest.raises(CheckpointError) as caught:
        await restore(engine, container, "cp")
    assert "Error (criu/" in caught.value.details
    assert "kept" in caught.value.brief
    broken.write_bytes(whole)
    await restore(engine, container, "cp")
    assert (await counted(engine, container))[0] == secret


async def test_a_damaged_checkpoint_is_seen_before_it_is_started(
    engine: DockerEngine, start: Start
) -> None:
    container = await start()
    dumped = await checkpoint(engine, container, "cp")
    (dumped.folder / "mm-1.img").write_bytes(b"no image")
    with pytest.raises(CheckpointError, match="damaged"):
        await restore(engine, container, "cp")
    (dumped.folder / "mm-1.img").unlink()
    with pytest.raises(CheckpointError, match="incomplete"):
        await restore(engine, container, "cp")
    assert not (await engine.inspect(container)).running


async def test_an_engine_that_was_killed_in_between_restores(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start
) -> None:
    container = await start()
    secret, _ = await counted(engine, container, beyond=2)
    await checkpoint(engine, container, "cp")
    await dockerd.kill()
    with pytest.raises(EngineUnavailable):
        await restore(engine, container, "cp")
    await dockerd.start()
    _, before = await last_count(engine, container)
    await restore(engine, container, "cp")
    assert (await counted(engine, container, beyond=before))[0] == secret


async def test_an_engine_that_is_killed_meanwhile_is_noticed_and_settled(
    dockerd: PrivateDockerd, engine: DockerEngine, start: Start
) -> None:
    container = await start()
    await counted(engine, container, beyond=2)
    await engine.remembered_facts()
    dumping = asyncio.create_task(checkpoint(engine, container, "cp"))
    folder = (await engine.remembered_facts()).checkpoint_folder(container, "cp")
    async with asyncio.timeout(60):
        while not folder.parent.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.001)  # another program makes it
    await dockerd.kill()
    with pytest.raises(EngineUnavailable):
        await dumping
    await dockerd.start()
    recovered = await recover(engine, container, "cp")
    assert recovered.checkpoint is folder.exists()
    if recovered.checkpoint:
        await restore(engine, container, "cp")
    else:
        with pytest.raises(NotFound):
            await restore(engine, container, "cp")
