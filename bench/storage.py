"""Compressed snapshots: how small, and how long a boot from one takes beside one from a plain one.

Boots are the host agent's own: slot, disk, restore, identity, until Docker in the guest answers.
Each round boots once from the plain snapshot, once from the compressed one with nothing unpacked
yet, and once more from it. The tiny guest on Firecracker has touched 512 MiB; a round loads it from
the plain file and from the frames, until it has counted on.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import uuid4

from demo.manager import forget_older_images, image_digest, manager, state_root
from tests.support import tiny_guest
from tests.support.firecracker import firecracker_binary, kvm_opens

from bench.measure import Failed, Samples
from bench.progress import Progress
from warmboot.client import Client
from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Identity
from warmboot.host.host_config import HostConfig
from warmboot.host.network import Network, NetworkConfig
from warmboot.host.snapshots.memory_frames import pack
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.snapshots.snapshot_files import load_manifest as load_snapshot_manifest
from warmboot.host.vm.vm_files import VMM_GID, snapshot_disks
from warmboot.hypervisors.base import MachineSnapshot
from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig
from warmboot.hypervisors.qemu import Qemu
from warmboot.images.files import load_manifest, stored_folder
from warmboot.model.errors import SnapshotDamaged
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import FRAMES_FILE, unmet_requirement
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmSpec
from warmboot.system.concurrency import in_stoppable_thread
from warmboot.system.hashing import copy_sparse, sum_file

ROUNDS = 9
BOOT_TIMEOUT_S = 120.0
TOUCHED_MIB = 512
TINY_SHAPE = Shape(1, 768)
TICK_TSC = 2_000_000
POLL_S = 0.001


async def measure(progress: Progress) -> dict[str, float]:
    """``storage.…``: the ratio, and boots from compressed snapshots over boots from plain ones."""
    samples = Samples()
    await _boots(samples, progress)
    if kvm_opens():
        await _tiny_guest(samples, progress)
    figures = {
        "storage.ratio": samples.median("storage.ratio"),
        "storage.compressed_boot_over_plain": samples.ratio(
            "storage.compressed_boot_s", "storage.plain_boot_s"
        ),
        "storage.compressed_next_over_plain": samples.ratio(
            "storage.compressed_next_s", "storage.plain_boot_s"
        ),
    }
    medians = ["plain_boot_s", "compressed_boot_s", "compressed_next_s", "compress_s"]
    if kvm_opens():
        figures["storage.uffd_over_file"] = samples.ratio("storage.uffd_s", "storage.file_s")
        medians += ["uffd_s", "file_s"]
    for name in (f"storage.{median}" for median in medians):
        figures[name] = samples.median(name)
        figures[f"{name}.runs"] = float(samples.runs(name))
    return figures


# -- boots of the runtime image --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Boots:
    host: HostAgent
    image: RuntimeImage
    samples: Samples

    async def boot(self, name: str, snapshot: Path) -> None:
        """From nothing until Docker answers."""
        vm_id, token = f"vm-{secrets.token_hex(6)}", secrets.token_urlsafe(16)
        started, slot = time.perf_counter(), None
        try:
            slot = await self.host.vms.reserve_slot()
            manifest = await self.host.snapshots.check(snapshot)
            spec = await self.host.vms.make(
                vm_id, self.image, manifest.shape, slot, snapshot_disks(snapshot)
            )
            await self.host.vms.restore(spec, snapshot, token)
            await self.host.vms.claim(vm_id, Identity("bench", uuid4().hex, token), BOOT_TIMEOUT_S)
            await self.host.vms.wait_for_docker(vm_id, BOOT_TIMEOUT_S)
            self.samples.add(name, time.perf_counter() - started)
        finally:
            await self.host.vms.destroy(vm_id, slot)


async def _boots(samples: Samples, progress: Progress) -> None:
    state = state_root()
    progress.tell("a snapshot to boot from")
    built, image_folder = await _ready_snapshot(state)
    root = state / "bench-storage"
    await asyncio.to_thread(shutil.rmtree, root, True)
    try:
        plain, packed = (root / kind / "image" / built.name for kind in ("plain", "packed"))
        for folder in (plain, packed):
            await asyncio.to_thread(_copy_folder, built, folder)
        async with _host(root) as host:
            progress.tell("compressing the snapshot")
            started = time.perf_counter()
            manifest = await host.snapshots.compress(packed)
            samples.add("storage.compress_s", time.perf_counter() - started)
            assert manifest.packed is not None
            stored = manifest.files[FRAMES_FILE].size_bytes
            samples.add("storage.ratio", stored / manifest.packed.nonzero_bytes)
            boots = _Boots(host, _image(image_folder), samples)
            await boots.boot("warming up", plain)
            for _ in progress.rounds("boots", ROUNDS):
                await boots.boot("storage.plain_boot_s", plain)
                await host.storage.cache.evict(0)
                await boots.boot("storage.compressed_boot_s", packed)
                await boots.boot("storage.compressed_next_s", packed)
    finally:
        await asyncio.to_thread(shutil.rmtree, root, True)


@contextlib.asynccontextmanager
async def _host(root: Path) -> AsyncIterator[HostAgent]:
    config = NetworkConfig(
        state_dir=root / "network",
        prefix="wbstor",
        subnet="198.19.128.0/20",
        pool_size=2,
        uid_base=VMM_GID + 60_000,
    )
    files = SnapshotFiles(root / "runtime-snapshots", VMM_GID)
    host = HostAgent(HostConfig(root, root / "run"), Qemu(), Network(config), files)
    for folder in ("plain", "packed"):
        for part in (root / folder, root / folder / "image"):
            shutil.chown(part, group=VMM_GID)
            part.chmod(0o710)
    await host.start([])
    try:
        yield host
    finally:
        await host.stop()


async def _ready_snapshot(state: Path) -> tuple[Path, Path]:
    """The folders of a plain snapshot and of its runtime image: one that the bench or the demo has
    left and that can be restored here, or a new one."""
    here = (await Qemu().probe()).host
    for storage in (state / "bench", state / "demo"):
        for path in (storage / "runtime-snapshots").glob("*/*"):
            with contextlib.suppress(SnapshotDamaged):
                manifest = load_snapshot_manifest(path)
                image = stored_folder(storage, manifest.image_digest)
                fits = unmet_requirement(manifest.requires, here) is None
                if fits and image.is_dir() and not manifest.compressed:
                    return path, image
    image = state / "runtime-image"
    build = (sys.executable, "-m", "warmboot.images", "build", "--output", str(image))
    process = await asyncio.create_subprocess_exec(*build, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise Failed("the runtime image could not be built")
    async with (
        manager(
            state / "bench",
            prefix="wbbench",
            subnet="198.19.176.0/20",
            settings={"MANAGER_POOL_MAX_VMS": "0", "MANAGER_COMPRESS_AFTER_H": "0"},
        ) as running,
        Client(running.url) as client,
    ):
        await forget_older_images(client, image_digest(image))
        registered = await client.images.register(
            name="bench", path=str(image), build_snapshot=False
        )
        snapshot_id = await client.snapshots.create(registered.id)
        async with client.events.follow(after=0) as events:
            async for event in events:
                if event.subject_id == snapshot_id and event.kind.endswith((".ready", ".failed")):
                    break
        snapshot = await client.snapshots.get(snapshot_id)
        if snapshot.state != "ready":
            raise Failed(f"the snapshot could not be built: {snapshot.error}")
        return Path(snapshot.snapshot_path), image


def _image(folder: Path) -> RuntimeImage:
    manifest = load_manifest(folder)
    return RuntimeImage(uuid4(), "bench", manifest.digest, folder, manifest, datetime.now(UTC))


def _copy_folder(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        copy_sparse(path, target / path.name)
        shutil.chown(target / path.name, group=VMM_GID)
        (target / path.name).chmod(0o440)
    shutil.chown(target, group=VMM_GID)
    target.chmod(0o710)


# -- the tiny guest on Firecracker -----------------------------------------------------------------


async def _tiny_guest(samples: Samples, progress: Progress) -> None:
    progress.tell("a tiny guest on Firecracker")
    binary = await firecracker_binary()
    driver = Firecracker(FirecrackerConfig(binary=str(binary)))
    with tempfile.TemporaryDirectory(prefix="wb-", dir=state_root()) as home:
        folder = Path(home)
        kernel = tiny_guest.write(folder / "kernel", touch_mib=TOUCHED_MIB, tick_tsc=TICK_TSC)
        plain, counted = await _saved(driver, folder, kernel)
        frames = plain.memory.with_name(FRAMES_FILE)
        expected = await asyncio.to_thread(sum_file, plain.memory)
        await in_stoppable_thread(partial(pack, plain.memory, frames, expected), "pack")
        packed = MachineSnapshot(frames, plain.state, compressed=True)
        for name, machine in (("warming up", plain), ("warming up", packed)):
            await _load(driver, folder, kernel, machine, counted, samples, name)
        for _ in progress.rounds("loads of the tiny guest", ROUNDS):
            for name, machine in (("storage.file_s", plain), ("storage.uffd_s", packed)):
                await _load(driver, folder, kernel, machine, counted, samples, name)


async def _saved(driver: Firecracker, folder: Path, kernel: Path) -> tuple[MachineSnapshot, int]:
    template = folder / "template"
    template.mkdir()
    spec = _tiny_spec(folder, kernel, template)
    vm = await driver.boot(spec)
    try:
        await tiny_guest.counts_past(spec.run_dir / "console.log", 3)
        await vm.pause()
        snapshot = await vm.save()
    finally:
        await vm.kill()
    return snapshot, tiny_guest.last_number(spec.run_dir / "console.log")


async def _load(
    driver: Firecracker,
    folder: Path,
    kernel: Path,
    machine: MachineSnapshot,
    counted: int,
    samples: Samples,
    name: str,
) -> None:
    spec = _tiny_spec(folder, kernel, None)
    console = spec.run_dir / "console.log"
    started = time.perf_counter()
    vm = await driver.restore(spec, machine)
    try:
        await tiny_guest.counts_past(console, counted, every_s=POLL_S)
        samples.add(name, time.perf_counter() - started)
    finally:
        await vm.kill()


def _tiny_spec(folder: Path, kernel: Path, template: Path | None) -> VmSpec:
    vm_id = f"tiny-{secrets.token_hex(4)}"
    (folder / vm_id).mkdir()
    return VmSpec(vm_id, folder / vm_id, TINY_SHAPE, kernel, None, "", template_dir=template)
