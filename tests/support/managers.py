"""A whole manager on the simulated hypervisor, over a storage of its own.

    async with lab() as it:                  a short folder below /tmp, removed at the end
        async with it.manager() as m:        services, store and host, reconciled
            m.services.containers.create(…)
        async with it.manager() as m:        the next one, on the same storage

Delays and faults are changed while everything runs: ``it.set(fail_restore=True)``.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from tests.support.databases import migrated
from tests.support.eventually import eventually as eventually

from warmboot.bootstrap import service
from warmboot.bootstrap.service import Running
from warmboot.guest import AGENT_VERSION
from warmboot.host.vm.leftovers import users_of
from warmboot.images.files import describe, write_manifest
from warmboot.images.guest_agent import SHIPPED
from warmboot.manager.containers.containers import Containers
from warmboot.manager.containers.parking.exited_vms import ExitedVms
from warmboot.manager.core.saga import Hook
from warmboot.manager.protocols import Until
from warmboot.model.container import Container, ContainerSpec
from warmboot.model.journal.event import Event
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.settings import Settings

T = TypeVar("T")

IMAGE_NAME = "default"
QUICK = {"boot_s": 0, "docker_s": 0, "restore_s": 0}
TIMEOUT_S = 200.0
KILLED_WITHIN_S = 60.0
"""Longer than anything takes beside real VMs on two CPUs, though the helpers of housekeeping have
only what other tests leave to them."""
FOREVER = ("sleep", "1000")


_kept: dict[str, Path] = {}


async def image_folder(agent: str = AGENT_VERSION) -> Path:
    """A runtime image that looks like a real one from outside, with a small disk; made once.

    Its guest agent is the shipped one, but for the protocol ``agent`` that it says it speaks.
    """
    if agent not in _kept:
        folder = Path(tempfile.mkdtemp(prefix="wb-image-", dir="/tmp"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        elf = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 0x3E, 1)
        (folder / "kernel").write_bytes(elf + bytes(4096))
        with tempfile.TemporaryDirectory() as tree:
            agent_package(Path(tree) / "usr/lib/warmboot/guest", agent)
            await make_ext4(folder / "rootfs.ext4", Path(tree))
        await make_ext4(folder / "disk.ext4")
        write_manifest(folder, await describe(folder, "quiet", agent, {}))
        _kept[agent] = folder
    return _kept[agent]


def agent_package(folder: Path, version: str) -> Path:
    """The shipped guest agent in ``folder``, of another protocol as far as it says."""
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("__pycache__"))
    init = folder / "__init__.py"
    init.write_text(init.read_text().replace(f'"{AGENT_VERSION}"', f'"{version}"'))
    return folder


async def make_ext4(path: Path, tree: Path | None = None, size_bytes: int = 1 << 20) -> None:
    """A small ext4 file system, with ``tree`` in it."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    filled = [] if tree is None else ["-d", str(tree)]
    tool = ["mke2fs", "-q", "-t", "ext4", *filled, str(path)]
    await asyncio.to_thread(subprocess.run, tool, check=True, timeout=60)


class Lab:
    """A storage root with its settings, and managers on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = root / "s"
        self.simulation = root / "simulation.json"
        self.options: dict[str, Any] = dict(QUICK)
        self.set()

    def set(self, **options: Any) -> None:
        """Delays and faults from now on (see ``SimulatedConfig``), at once and as a whole."""
        self.options |= options
        temporary = self.simulation.with_suffix(".new")
        temporary.write_text(json.dumps(self.options))
        temporary.rename(self.simulation)

    def settings(self, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "storage_root": self.storage,
            "hypervisor": "simulated",
            "simulation": self.simulation,
            "disk_floor_mib": 0,
            "docker_host": f"unix://{self.storage}/no-docker.sock",
            # Housekeeping by itself is for the tests of housekeeping.
            **dict.fromkeys(("gc_every_h", "compress_after_h", "integrity_every_h"), 0),
            "park_exited_after_s": 0,
            "default_vcpus": 1,
            "default_memory_mib": 256,
            "auto_snapshot": False,
            "image_demand_starts": 0,
            **changes,
        }
        return Settings(**values)

    @contextlib.asynccontextmanager
    async def manager(self, hook: Hook | None = None, /, **changes: Any) -> AsyncIterator[Manager]:
        settings = self.settings(**changes)
        if not settings.database_url:
            settings.storage_root.mkdir(parents=True, exist_ok=True)
            migrated(settings.storage_root / "warmboot.db")
        async with service.running(settings, hook) as running:
            yield Manager(self, running)

    def kill_everything(self) -> None:
        """End every simulated VM of this storage, and the front of its engines' sockets, which is
        our child if its manager is in here.
        """
        for pid in (*front_pids(self.storage), *vmm_pids(self.storage)):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                pidfd = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    select.select([pidfd], [], [], KILLED_WITHIN_S)
                    os.waitpid(pid, 0)
                finally:
                    os.close(pidfd)


class Manager:
    """A running manager, and the questions that tests ask it."""

    def __init__(self, lab: Lab, running: Running) -> None:
        self.lab = lab
        self.running = running
        self.services = running.services
        self.containers = running.services.containers
        self.snapshots = running.services.snapshots
        self.store = running.store
        self.host = running.host

    async def image(self) -> RuntimeImage:
        """The runtime image, registered when first asked for."""
        for known in await self.services.images.list():
            return known
        registered = await self.services.images.register(name=IMAGE_NAME, path=await image_folder())
        return registered.image

    async def snapshot(self, **options: Any) -> RuntimeSnapshot:
        """A new snapshot that is ready."""
        image = await self.image()
        snapshot_id = await self.snapshots.create(image.id, options.get("shape"))
        return await self.snapshot_until(snapshot_id, SnapshotState.READY)

    async def snapshot_until(self, snapshot_id: UUID, *states: SnapshotState) -> RuntimeSnapshot:
        async def look() -> RuntimeSnapshot | None:
            snapshot = await self.snapshots.get(snapshot_id)
            return snapshot if snapshot.state in states else None

        return await self.until(look, f"snapshot {snapshot_id} is {states}")

    async def create(
        self,
        name: str = "web",
        *command: str,
        attach: bool = False,
        start: bool = True,
        **fields: Any,
    ) -> UUID:
        await self.image()
        spec = {"name": name, "image": "busybox", "command": command or FOREVER, **fields}
        return await self.containers.create(ContainerSpec(**spec), attach=attach, start=start)

    async def run(self, name: str = "web", *command: str, **fields: Any) -> Container:
        """Create and wait until it runs (or has failed, or has even ended)."""
        container_id = await self.create(name, *command, **fields)
        return await self.wait(str(container_id), Until.RUNNING)

    async def wait(self, ref: str, until: Until) -> Container:
        return await self.containers.wait(ref, until, TIMEOUT_S)

    async def output(self, ref: str, **options: Any) -> bytes:
        chunks = self.containers.logs(ref, **options)
        return b"".join([chunk.data async for chunk in chunks])

    async def vm_pid(self, ref: str) -> int:
        container = await self.containers.get(ref)
        (record,) = await self.store.vms.of_owner(container.id)
        assert record.handle is not None
        return record.handle.pid

    async def vmm_runs(self, container_id: UUID) -> bool | None:
        """Whether a VMM was started for it, whatever has become of its guest; to wait for."""
        records = await self.store.vms.of_owner(container_id)
        return True if records and await self.host.vms.is_alive(records[0].id) else None

    async def events_of(self, subject_id: object) -> list[Event]:
        events = await self.services.events.list(limit=1000)
        return [event for event in events if event.subject_id == str(subject_id)]

    async def until(self, look: Callable[[], Awaitable[T | None]], what: str = "") -> T:
        """What ``look`` finds once it finds something; looked for every few milliseconds."""
        return await eventually(look, what, TIMEOUT_S)


def vmm_pids(storage: Path) -> list[int]:
    """Every process that names the folder of a VM of this storage."""
    return users_of(storage / "vms")


def front_pids(storage: Path) -> list[int]:
    """The processes that serve the sockets of this storage's engines: they have a log there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                log = str((entry / "fd" / "1").readlink())
                if log.startswith(f"{storage}/run/front.log"):
                    found.append(int(entry.name))
    return found


@contextlib.asynccontextmanager
async def lab() -> AsyncIterator[Lab]:
    """A short path: a Unix socket's may have 107 bytes at most."""
    made = Lab(Path(tempfile.mkdtemp(prefix="wb-", dir="/tmp")))
    try:
        yield made
    finally:
        made.kill_everything()
        shutil.rmtree(made.root, ignore_errors=True)


def exited_vms(manager: Manager) -> ExitedVms:
    assert isinstance(manager.containers, Containers)
    return manager.containers.exited
