"""What holds for compressed snapshots of every hypervisor, however it takes them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from tests.conformance.keeper import Keeper
from tests.conformance.rigs import SHAPE, Rig
from tests.conformance.test_snapshots import counted
from tests.support.eventually import until
from tests.support.firecracker import kvm_opens
from tests.support.snapshots import IMAGE_ID, flip, here, make_image

from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.snapshot_files import SnapshotFiles, load_manifest
from warmboot.host.snapshots.stored_memory import with_machine
from warmboot.hypervisors.base import MachineSnapshot, Vm
from warmboot.hypervisors.memory.frames import Frames
from warmboot.model.errors import RestoreFailed, SnapshotDamaged, VmGone
from warmboot.model.runtime_snapshot import (
    FRAMES_FILE,
    HostRequirements,
    SnapshotManifest,
)
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmSpec, VmStatus

GONE_S = 60.0


class Stored:
    """A published snapshot of a VM that counted, and how it is restored."""

    def __init__(self, vms: Keeper, path: Path, saved_spec: VmSpec) -> None:
        self.vms, self.rig, self.path = vms, vms.rig, path
        self.before = vms.rig.count(saved_spec)
        self.saved_spec = saved_spec
        self.files = SnapshotFiles(path.parents[1], os.getgid(), here)
        root = vms.rig.home / "cache" / "memory"
        self.cache = MemoryCache(root, os.getgid(), vms=vms.handles)

    async def restore(self, spec: VmSpec | None = None) -> tuple[VmSpec, Vm]:
        spec = spec or self.rig.make_spec()

        async def open_it(machine: MachineSnapshot) -> Vm:
            return await self.vms.driver.restore(spec, machine)

        vm = await with_machine(self.vms.driver, self.files, self.cache, self.path, open_it)
        return spec, self.vms.keep(vm)


@pytest.fixture
async def stored(vms: Keeper, rig: Rig) -> AsyncIterator[Stored]:
    """Compressed."""
    files = SnapshotFiles(rig.home / "snapshots", os.getgid(), here)
    snapshot_id = UUID(int=9)
    folder = await files.begin(make_image(rig.home / "image"), snapshot_id)
    spec, vm = await vms.boot(rig.make_spec(template_dir=folder))
    await vm.pause()
    await vm.save()
    await vm.kill()
    requires = HostRequirements(rig.name, "1", "none", "any", "any")
    await files.publish(
        folder,
        SnapshotManifest(
            snapshot_id=snapshot_id,
            image_digest="sha256:00",
            agent_version="1",
            shape=SHAPE,
            requires=requires,
            files={},
            created_at=datetime.now(UTC),
            cmdline="",
        ),
    )
    path = files.path(IMAGE_ID, snapshot_id)
    await files.compress(path)
    yield Stored(vms, path, spec)


async def test_it_counts_on_from_where_it_was_saved(stored: Stored, rig: Rig) -> None:
    spec, vm = await stored.restore()
    assert await vm.status() is VmStatus.RUNNING
    await rig.counts_past(spec, stored.before + 1)
    numbers = counted(rig, stored.saved_spec, spec)
    assert numbers == list(range(1, len(numbers) + 1))


async def test_clones_run_at_once_and_apart(stored: Stored, rig: Rig) -> None:
    clones = await asyncio.gather(*(stored.restore() for _ in range(3)))
    for spec, _ in clones:
        await rig.counts_past(spec, stored.before + 2)
    await clones[0][1].kill()
    for spec, vm in clones[1:]:
        assert await vm.status() is VmStatus.RUNNING
        await rig.counts_past(spec, rig.count(spec))
        numbers = counted(rig, stored.saved_spec, spec)
        assert numbers == list(range(1, len(numbers) + 1))


async def test_stored_files_never_change(stored: Stored, rig: Rig) -> None:
    await stored.files.verify(stored.path)
    for _ in range(2):
        spec, vm = await stored.restore()
        await rig.counts_past(spec, stored.before + 3)
        await vm.kill()
    assert await stored.files.verify(stored.path) == load_manifest(stored.path)


async def test_what_a_vm_maps_stays_in_the_cache_until_it_ends(stored: Stored, rig: Rig) -> None:
    spec, vm = await stored.restore()
    unpacked = [entry.path for entry in await stored.cache.entries()]
    assert await stored.cache.evict(0) == []
    await rig.counts_past(spec, stored.before + 1)
    await vm.kill()
    assert [entry.path for entry in await stored.cache.evict(0)] == unpacked
    unpacks = not (await stored.vms.driver.probe()).capabilities.memory_frames
    assert bool(unpacked) is unpacks


async def test_it_runs_on_while_the_snapshot_is_unpacked_and_compressed(
    stored: Stored, rig: Rig
) -> None:
    spec, _ = await stored.restore()
    await stored.files.unpack(stored.path)
    plain_spec, _ = await stored.restore()
    await stored.files.compress(stored.path)
    for file in stored.cache.root.glob("*"):  # as by hand
        file.unlink()
    for one in (spec, plain_spec):
        await rig.counts_past(one, rig.count(one) + 3)


def _flip_in_data(path: Path) -> None:
    with Frames(path / FRAMES_FILE) as frames:
        for entry in frames.entries:
            if entry.mask:
                flip(path / FRAMES_FILE, entry.offset + entry.length // 2)


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip_in_data,
    "flipped index": lambda path: flip(
        path / FRAMES_FILE, (path / FRAMES_FILE).stat().st_size - 200
    ),
    "short": lambda path: os.truncate(path / FRAMES_FILE, 3000),
    "empty": lambda path: os.truncate(path / FRAMES_FILE, 0),
    "missing": lambda path: (path / FRAMES_FILE).unlink(),
}


@pytest.mark.parametrize("damage", _DAMAGES)
async def test_damaged_frames_are_told_and_leave_nothing(
    stored: Stored, vms: Keeper, rig: Rig, damage: str
) -> None:
    _DAMAGES[damage](stored.path)
    spec = rig.make_spec()
    with pytest.raises(SnapshotDamaged) as told:
        spec, vm = await asyncio.wait_for(stored.restore(spec), 60)
        # Frames that nobody had touched until it ran: it ends as soon as one is.
        await asyncio.wait_for(vm.wait_gone(), GONE_S)
        raise vm.end_cause() or AssertionError("nobody knows why it ended")
    assert told.value.resolution
    await vms.end()
    assert [path.name for path in stored.cache.root.glob("*")] == []


async def test_another_shape_is_a_failed_restore(stored: Stored, rig: Rig) -> None:
    with pytest.raises(RestoreFailed):
        await stored.restore(rig.make_spec(shape=Shape(1, 512)))
    await stored.vms.nothing_is_left()


@pytest.mark.parametrize("after_s", [0, 0.005, 0.02, 0.05, 0.1])
async def test_a_cancelled_restore_leaves_no_process(
    stored: Stored, rig: Rig, after_s: float
) -> None:
    restoring = asyncio.create_task(stored.restore())
    await asyncio.sleep(after_s)
    restoring.cancel()
    try:
        await restoring
    except asyncio.CancelledError:
        await stored.vms.nothing_is_left()


async def test_the_form_is_no_secret_to_who_attaches(stored: Stored, rig: Rig) -> None:
    spec, vm = await stored.restore()
    handle = vm.handle
    await stored.vms.detach(vm)
    again = stored.vms.keep(await rig.driver().attach(spec, handle))
    await rig.counts_past(spec, rig.count(spec) + 2)
    await again.kill()
    await stored.vms.nothing_is_left()


# -- page servers: where frames are served ---------------------------------------------------------

serves_frames = pytest.mark.parametrize(
    "rig",
    [
        pytest.param(
            "firecracker",
            marks=[
                pytest.mark.firecracker,
                pytest.mark.skipif(not kvm_opens(), reason="/dev/kvm does not open"),
            ],
        )
    ],
    indirect=True,
)


@serves_frames
async def test_frames_are_served_and_nothing_is_unpacked(stored: Stored, rig: Rig) -> None:
    assert (await stored.vms.driver.probe()).capabilities.memory_frames
    await stored.restore()
    assert not stored.cache.root.exists()


def _pager_of(vm: Vm) -> int:
    """The process beside the VMM."""
    needle = os.fsencode(vm.handle.vm_id)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # others come and go meanwhile
            line = (entry / "cmdline").read_bytes()
            if needle in line and b"memory/__main__.py" in line:
                found.append(int(entry.name))
    assert len(found) == 1
    return found[0]


@serves_frames
async def test_a_vm_whose_pages_nobody_serves_is_gone(stored: Stored, rig: Rig) -> None:
    spec, vm = await stored.restore()
    await rig.counts_past(spec, stored.before)
    os.kill(_pager_of(vm), signal.SIGKILL)
    await asyncio.wait_for(vm.wait_gone(), GONE_S)
    assert await vm.status() is VmStatus.GONE


@serves_frames
async def test_one_whose_pages_nobody_serves_is_not_adopted(stored: Stored, rig: Rig) -> None:
    spec, vm = await stored.restore()
    handle, pager = vm.handle, _pager_of(vm)
    await stored.vms.detach(vm)
    os.kill(pager, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, pager, 0)
    with pytest.raises(VmGone):
        await rig.driver().attach(spec, handle)
    await stored.vms.nothing_is_left()  # its console's log ends just after it


@serves_frames
async def test_page_servers_end_with_a_vm_that_crashes(stored: Stored, rig: Rig) -> None:
    _, vm = await stored.restore()
    pager = _pager_of(vm)
    os.kill(vm.handle.pid, signal.SIGKILL)
    await asyncio.wait_for(vm.wait_gone(), GONE_S)
    await until(lambda: not Path(f"/proc/{pager}").exists(), "the page server has ended")
