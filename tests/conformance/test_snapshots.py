"""What holds for the snapshots of every hypervisor."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.keeper import Keeper
from tests.conformance.rigs import Rig
from tests.support import tiny_guest

from warmboot.hypervisors.base import MachineSnapshot
from warmboot.model.errors import HypervisorError, RestoreFailed
from warmboot.model.runtime_snapshot import unmet_requirement
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, VmSpec, VmStatus


def counted(rig: Rig, *specs: VmSpec) -> list[int]:
    """What a VM and its clone printed, one after the other: a pause may split a number in two."""
    return tiny_guest.numbers(b"".join(rig.printed(spec) for spec in specs))


async def test_only_a_paused_vm_is_saved(vms: Keeper, rig: Rig) -> None:
    spec, vm = await vms.boot()
    with pytest.raises(HypervisorError):
        await vm.save()
    assert await vm.status() is VmStatus.RUNNING
    await rig.counts_past(spec, rig.count(spec))


async def test_a_vm_without_a_template_folder_is_not_saved(vms: Keeper, rig: Rig) -> None:
    _, vm = await vms.boot(rig.make_spec())
    await vm.pause()
    with pytest.raises(HypervisorError):
        await vm.save()


async def test_a_saved_vm_stays_paused(vms: Keeper, rig: Rig) -> None:
    spec, vm = await vms.boot()
    await vm.pause()
    snapshot = await vm.save()
    assert await vm.status() is VmStatus.PAUSED
    assert snapshot.memory.parent == snapshot.state.parent == spec.template_dir
    assert (snapshot.memory.name, snapshot.state.name) == ("snapshot.mem", "snapshot.state")


async def test_a_restored_vm_counts_on_from_where_it_was_saved(vms: Keeper, rig: Rig) -> None:
    saved_spec, snapshot = await vms.saved()
    before = rig.count(saved_spec)
    spec, vm = await vms.restore(snapshot)
    assert await vm.status() is VmStatus.RUNNING
    await rig.counts_past(spec, before + 1)
    numbers = counted(rig, saved_spec, spec)
    assert numbers == list(range(1, len(numbers) + 1))


async def test_two_clones_run_at_once_and_apart(vms: Keeper, rig: Rig) -> None:
    saved_spec, snapshot = await vms.saved()
    before = rig.count(saved_spec)
    (spec_a, vm_a), (spec_b, vm_b) = [await vms.restore(snapshot) for _ in range(2)]
    await rig.counts_past(spec_a, before + 2)
    await rig.counts_past(spec_b, before + 2)
    await vm_a.pause()
    stopped = await vms.stands_still(spec_a)
    await rig.counts_past(spec_b, rig.count(spec_b) + 5)
    assert rig.printed(spec_a) == stopped
    assert vm_a.handle.pid != vm_b.handle.pid
    await vm_a.kill()
    assert await vm_b.status() is VmStatus.RUNNING
    for spec in (spec_a, spec_b):
        numbers = counted(rig, saved_spec, spec)
        assert numbers == list(range(1, len(numbers) + 1))


async def test_saved_files_never_change(vms: Keeper, rig: Rig) -> None:
    _, snapshot = await vms.saved()
    before = _sums(snapshot)
    for _ in range(2):
        spec, vm = await vms.restore(snapshot)
        await rig.counts_past(spec, 3)
        await vm.kill()
    assert _sums(snapshot) == before


async def test_a_clone_opens_its_own_disk_and_not_the_saved_vms(vms: Keeper, rig: Rig) -> None:
    template_dir, original = rig.make_template_dir(), rig.make_disk("original")
    base = dataclasses.replace(rig.make_disk("base"), read_only=True)
    _, vm = await vms.boot(rig.make_spec(disks=(base, original), template_dir=template_dir))
    await vm.pause()
    snapshot = await vm.save()
    await vm.kill()
    clones: list[tuple[Disk, set[Path]]] = []
    for _ in range(2):
        disk = rig.make_disk("clone")
        _, clone = await vms.restore(snapshot, rig.make_spec(disks=(base, disk)))
        clones.append((disk, _open_files(clone.handle.pid)))
    if rig.name == "simulated":
        assert all(not opened & {original.path, disk.path} for disk, opened in clones)
        return
    for disk, opened in clones:
        assert {disk.path, base.path} <= opened
        assert original.path not in opened


@pytest.mark.parametrize("damage", ["short", "empty", "missing"])
async def test_a_damaged_memory_file_is_a_failed_restore(
    vms: Keeper, rig: Rig, damage: str
) -> None:
    _, snapshot = await vms.saved()
    _DAMAGES[damage](snapshot.memory)
    await _assert_refused(vms, rig, snapshot)


@pytest.mark.parametrize("damage", ["short", "empty", "missing", "garbage"])
async def test_a_damaged_state_file_is_a_failed_restore(vms: Keeper, rig: Rig, damage: str) -> None:
    _, snapshot = await vms.saved()
    _DAMAGES[damage](snapshot.state)
    await _assert_refused(vms, rig, snapshot)


async def test_a_snapshot_of_another_shape_is_a_failed_restore(vms: Keeper, rig: Rig) -> None:
    _, snapshot = await vms.saved()
    spec = rig.make_spec(shape=Shape(1, 512))
    with pytest.raises(RestoreFailed):
        await vms.driver.restore(spec, snapshot)
    await vms.nothing_is_left()


async def test_another_version_is_told_from_this_one(vms: Keeper, rig: Rig) -> None:
    here, there = await vms.driver.probe(), await rig.newer_driver().probe()
    assert unmet_requirement(here.host, here.host) is None
    reason = unmet_requirement(here.host, there.host)
    assert reason is not None
    assert here.host.hypervisor_version in reason
    assert there.host.hypervisor_version in reason


@pytest.mark.parametrize("after_s", [0, 0.001, 0.005, 0.02, 0.1])
async def test_a_cancelled_restore_leaves_no_process(vms: Keeper, rig: Rig, after_s: float) -> None:
    _, snapshot = await vms.saved()
    restoring = asyncio.create_task(vms.driver.restore(rig.make_spec(), snapshot))
    await asyncio.sleep(after_s)
    restoring.cancel()
    try:
        vms.keep(await restoring)
    except asyncio.CancelledError:
        await vms.nothing_is_left()


def _shorten(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


_DAMAGES: dict[str, Callable[[Path], object]] = {
    "short": _shorten,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(b"\xa5" * path.stat().st_size),
}


async def _assert_refused(vms: Keeper, rig: Rig, snapshot: MachineSnapshot) -> None:
    spec = rig.make_spec()
    with pytest.raises(RestoreFailed) as failure:
        await asyncio.wait_for(vms.driver.restore(spec, snapshot), 60)
    assert failure.value.resolution
    await vms.nothing_is_left()


def _sums(snapshot: MachineSnapshot) -> list[str]:
    paths = (snapshot.memory, snapshot.state)
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _open_files(pid: int) -> set[Path]:
    return {link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()}
