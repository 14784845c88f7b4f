"""What was in memory only when the VM was frozen is there after the restore.

On a site of its own: what is in its snapshot is in no other one.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.e2e.conftest import Archive
from tests.support.vms import TINY, Site, state_root

from warmboot.bootstrap import service
from warmboot.bootstrap.service import Running
from warmboot.host.guest.guest_link import GuestLink
from warmboot.host.guest.guest_sessions import exec_session
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerSpec
from warmboot.model.runtime_snapshot import DISK_FILE, MEMORY_FILE, ROOTFS_FILE, SnapshotState
from warmboot.model.sessions import ExecSpec
from warmboot.model.tenants.boot import BootMethod
from warmboot.settings import Settings

KEEPER = "keeper"
# A shell that keeps a random value in a variable and tells it to whoever asks. Pipes on a tmpfs:
# what goes through them is never written anywhere.
KEEP = (
    "s=$(busybox od -An -tx1 -N24 /dev/urandom | busybox tr -d ' \\n'); cd /ram; "
    "busybox mkfifo ask answer; while read line <ask; do echo $s >answer; done"
)
ASK = "cd /ram; while ! test -p answer; do sleep 0.1; done; echo please >ask; cat answer"


@pytest.fixture
async def memory_site() -> AsyncIterator[Site]:
    async with Site.at(state_root() / "e2e-memory", prefix="wbm", subnet="198.19.212.0/22") as site:
        yield site


async def test_what_was_in_memory_only_is_there_after_the_restore(
    memory_site: Site, image_folder: Path, archive: Archive
) -> None:
    before: list[str] = []

    async def plant(saga: str, step: str) -> None:
        """Called as the last thing before the builder's VM is frozen."""
        if (saga, step) == ("build-snapshot", "freeze"):
            (record,) = await running.store.vms.list()
            before.append(await _plant(running.host.vms.link(record.id), archive))

    settings = Settings(
        storage_root=memory_site.storage,
        network_prefix=memory_site.prefix,
        network_subnet=memory_site.subnet,
    )
    async with service.running(settings, plant) as running:
        snapshot = await _snapshot(running, image_folder)
        (secret,) = before
        assert len(bytes.fromhex(secret)) == 24
        for name in (DISK_FILE, ROOTFS_FILE):
            assert not _contains(snapshot / name, secret.encode()), f"it is in {name}"
        assert _contains(snapshot / MEMORY_FILE, secret.encode())

        container_id = await running.services.containers.create(
            ContainerSpec("clone", TINY, command=("sleep", "1000"))
        )
        clone = await running.services.containers.wait(str(container_id), Until.RUNNING, 120)
        assert clone.boot_method is BootMethod.WARM, clone.error
        assert clone.vm_id is not None
        assert await _ask(running.host.vms.link(clone.vm_id)) == secret
        await running.services.containers.delete("clone", force=True)
    assert await memory_site.on_the_machine() == []


async def _snapshot(running: Running, image_folder: Path) -> Path:
    """Build one; its folder."""
    registered = await running.services.images.register(
        name="default", path=image_folder, build_snapshot=False
    )
    image = registered.image
    snapshot_id = await running.services.snapshots.create(image.id, None)
    async for event in running.services.events.follow(0):
        if event.subject_id == str(snapshot_id):
            assert event.kind != "runtime-snapshot.failed", event.data
            if event.kind == "runtime-snapshot.ready":
                break
    snapshot = await running.services.snapshots.get(snapshot_id)
    assert snapshot.state is SnapshotState.READY
    return snapshot.snapshot_path


async def _plant(link: GuestLink, archive: Archive) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield archive.content

    await link.docker.load_image(chunks())
    await link.docker.create(
        KEEPER,
        {
            "Image": archive.name,
            "Cmd": ["sh", "-c", KEEP],
            "HostConfig": {"Tmpfs": {"/ram": ""}, "NetworkMode": "none"},
        },
    )
    await link.docker.start(KEEPER)
    return await _ask(link)


async def _ask(link: GuestLink) -> str:
    session = await exec_session(link, KEEPER, ExecSpec(("sh", "-c", ASK)))
    try:
        async with asyncio.timeout(60):
            return b"".join([chunk.data async for chunk in session]).decode().strip()
    finally:
        await session.close()


def _contains(path: Path, needle: bytes) -> bool:
    """Whether it is anywhere in the file; holes are not read."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        start, size = 0, len(content)
        while start < size:
            try:
                start = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return False
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            if content.find(needle, max(0, start - len(needle)), end) >= 0:
                return True
            start = end
    return False
