"""What holds for VMs of every hypervisor that are frozen while they are in use, and their forks."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from uuid import UUID, uuid4

import pytest
from tests.conformance.keeper import Keeper
from tests.conformance.own_disks import Disks
from tests.conformance.rigs import Rig
from tests.support import tiny_guest
from tests.support.eventually import eventually, until
from tests.support.own_pages import page_out, swap_file, swapped_bytes

from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.memory_differences import StoredFile, lay_over, merge_differences
from warmboot.host.vm import disk_layers
from warmboot.host.vm.disk_layers import fork_disk
from warmboot.host.vm.freeze_vm import FrozenVm, freeze_vm
from warmboot.hypervisors.base import FrozenMachine, MachineSnapshot, Vm
from warmboot.hypervisors.memory.difference import Difference
from warmboot.model.errors import HostError, HypervisorError
from warmboot.model.vm import Disk, VmSpec, VmStatus
from warmboot.system.hashing import sum_file

TOUCHED_MIB = 192

needs_qemu = pytest.mark.parametrize(
    "rig", [pytest.param("qemu", marks=pytest.mark.qemu)], indirect=True
)


@dataclass(frozen=True)
class Frozen:
    """A VM as it was frozen: ``base`` and ``difference`` are its memory; ``printed`` is what its
    guest, and the VMs that it comes of, had printed until then."""

    base: Path | None
    frozen: FrozenMachine
    printed: bytes
    id: UUID = field(default_factory=uuid4)

    @property
    def difference(self) -> StoredFile:
        return StoredFile(self.frozen.difference)

    def memory(self, target: Path) -> Path:
        base = None if self.base is None else StoredFile(self.base)
        lay_over(base, self.difference, target, Event())
        return target


class Freezer:
    """Makes moments, and starts VMs from them."""

    def __init__(self, vms: Keeper) -> None:
        self.vms, self.rig = vms, vms.rig
        self._printed: dict[str, bytes] = {}
        self._mapped: dict[str, Path] = {}
        root = vms.rig.home / "cache" / "memory"
        self.cache = MemoryCache(root, os.getgid(), vms=vms.handles)

    async def source(self) -> tuple[VmSpec, Vm]:
        """A VM that was restored from a saved one, and has counted since."""
        saved_spec, snapshot = await self.vms.saved()
        spec, vm = await self.vms.restore(snapshot)
        self._printed[spec.id] = self.rig.printed(saved_spec)
        self._mapped[spec.id] = snapshot.memory
        await self.rig.counts_past(spec, self.rig.count(saved_spec) + 2)
        return spec, vm

    async def freeze(self, spec: VmSpec, vm: Vm) -> Frozen:
        """The VM stands still for it, and goes on."""
        folder = self.rig.make_template_dir()
        await vm.pause()
        frozen = await vm.freeze(folder)
        assert await vm.status() is VmStatus.PAUSED
        printed = self._printed.get(spec.id, b"") + self.rig.printed(spec)
        await vm.resume()
        assert {path.name for path in folder.iterdir()} == {"snapshot.diff", "snapshot.state"}
        base = self._mapped[spec.id] if frozen.based else None
        return Frozen(base, frozen, printed)

    async def fork(self, moment: Frozen) -> tuple[VmSpec, Vm]:
        """A VM that has begun to count on from there."""
        base = None if moment.base is None else StoredFile(moment.base)
        content = sum_file(moment.difference.path)
        async with self.cache.laid(moment.id, moment.difference, content, base) as memory:
            spec, vm = await self.vms.restore(
                MachineSnapshot(memory, moment.frozen.state, frozen=True)
            )
        self._printed[spec.id] = moment.printed
        self._mapped[spec.id] = memory
        await self.rig.counts_past(spec, 0)
        return spec, vm

    async def assert_counts_without_a_gap(self, spec: VmSpec) -> None:
        await self.rig.counts_past(spec, self.rig.count(spec) + 1)
        numbers = tiny_guest.numbers(self._printed.get(spec.id, b"") + self.rig.printed(spec))
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.fixture
async def freezer(vms: Keeper) -> AsyncIterator[Freezer]:
    assert (await vms.driver.probe()).capabilities.freezes
    yield Freezer(vms)


async def test_only_a_paused_vm_is_frozen(freezer: Freezer, rig: Rig) -> None:
    spec, vm = await freezer.source()
    folder = rig.make_template_dir()
    with pytest.raises(HypervisorError):
        await vm.freeze(folder)
    assert list(folder.iterdir()) == []
    await freezer.assert_counts_without_a_gap(spec)


async def test_forks_count_on_from_their_moment_and_the_source_does_too(freezer: Freezer) -> None:
    spec, vm = await freezer.source()
    first = await freezer.freeze(spec, vm)
    await freezer.assert_counts_without_a_gap(spec)
    second = await freezer.freeze(spec, vm)
    assert len(tiny_guest.numbers(first.printed)) < len(tiny_guest.numbers(second.printed))
    forks = [await freezer.fork(moment) for moment in (first, second, first)]
    for one, _ in [(spec, vm), *forks]:
        await freezer.assert_counts_without_a_gap(one)
    assert len(await freezer.cache.entries()) == 2  # one a moment, however many start from it


async def test_the_pages_of_its_own_are_over_the_memory_that_it_was_restored_from(
    freezer: Freezer, rig: Rig
) -> None:
    spec, vm = await freezer.source()
    moment = await freezer.freeze(spec, vm)
    assert moment.frozen.based
    with Difference(moment.frozen.difference) as difference:
        assert difference.index.own_bytes > 0
        if rig.name != "simulated":  # its memory is some pages of text
            assert difference.index.memory_bytes == spec.shape.memory_mib << 20
            assert difference.index.own_bytes < difference.index.memory_bytes // 8


async def test_a_vm_that_was_booted_is_frozen_over_nothing(freezer: Freezer, vms: Keeper) -> None:
    spec, vm = await vms.boot(freezer.rig.make_spec())
    moment = await freezer.freeze(spec, vm)
    assert not moment.frozen.based
    fork_spec, _ = await freezer.fork(moment)
    for one in (spec, fork_spec):
        await freezer.assert_counts_without_a_gap(one)


async def test_a_fork_of_a_fork_of_a_fork_is_one_difference_from_the_first_base(
    freezer: Freezer, rig: Rig
) -> None:
    spec, vm = await freezer.source()
    first = whole = await freezer.freeze(spec, vm)
    for _ in range(2):
        spec, vm = await freezer.fork(whole)
        moment = await freezer.freeze(spec, vm)
        await vm.kill()
        merged = moment.frozen.difference.with_suffix(".merged")
        merge_differences(whole.difference, moment.difference, merged)
        frozen = replace(moment.frozen, difference=merged)
        whole = replace(moment, base=first.base, frozen=frozen, id=uuid4())
        memories = [
            one.memory(rig.home / f"{os.urandom(4).hex()}.mem").read_bytes()
            for one in (moment, whole)
        ]
        assert memories[0] == memories[1]
    spec, _ = await freezer.fork(whole)
    await freezer.assert_counts_without_a_gap(spec)


async def test_a_freeze_that_fails_leaves_the_source_as_it_was(freezer: Freezer, rig: Rig) -> None:
    spec, vm = await freezer.source()
    await vm.pause()
    with pytest.raises(HostError):
        await vm.freeze(rig.home / "nowhere")
    taken = rig.make_template_dir()
    (taken / "snapshot.diff").touch()  # in the way of the new one
    with pytest.raises(HostError):
        await vm.freeze(taken)
    assert list(taken.iterdir()) == []
    assert await vm.status() is VmStatus.PAUSED
    await vm.resume()
    await freezer.assert_counts_without_a_gap(spec)


@pytest.mark.parametrize("after_s", [0, 0.002, 0.02])
async def test_a_cancelled_freeze_leaves_no_file(
    freezer: Freezer, rig: Rig, after_s: float
) -> None:
    spec, vm = await freezer.source()
    await vm.pause()
    folder = rig.make_template_dir()
    freezing = asyncio.create_task(vm.freeze(folder))
    await asyncio.sleep(after_s)
    freezing.cancel()
    try:
        await freezing
    except asyncio.CancelledError:
        assert list(folder.iterdir()) == []
    await vm.resume()
    await freezer.assert_counts_without_a_gap(spec)


@needs_qemu
async def test_memory_that_is_written_to_all_the_time_is_of_one_moment(
    freezer: Freezer, rig: Rig
) -> None:
    """A guest that is just writing a number to every page, some tens of thousand a second."""
    tiny_guest.write(rig.kernel, touch_mib=TOUCHED_MIB, pvh=True)
    spec = rig.make_spec()
    vm = freezer.vms.keep(await freezer.vms.driver.boot(spec))
    booting = _written_bytes(vm)

    async def it_has_begun() -> bool:
        return _written_bytes(vm) > booting + (64 << 20)

    await eventually(it_has_begun, "it has begun")
    moment = await freezer.freeze(spec, vm)
    touched = _touched(moment.memory(rig.home / "moment.mem").read_bytes())
    # In order and without a gap: it was not written to while it was copied.
    last = TOUCHED_MIB * 256
    assert touched == list(range(last, last - len(touched), -1))
    assert touched
    fork_spec, _ = await freezer.fork(moment)
    await rig.counts_past(spec, 0)
    await rig.counts_past(fork_spec, 0)


def _written_bytes(vm: Vm) -> int:
    """What a VMM has of memory that is no file's."""
    for line in Path(f"/proc/{vm.handle.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def _touched(memory: bytes) -> list[int]:
    """The numbers in the pages that the guest writes to, as far as it has come."""
    first, page = tiny_guest.TOUCHED_FROM, tiny_guest.PAGE
    found = [
        int.from_bytes(memory[at : at + 4], "little")
        for at in range(first, first + (TOUCHED_MIB << 20), page)
    ]
    return [number for number in found if number]


def _pages_out(pid: int) -> int:
    """Have the pages of its RAM swapped out; how many bytes of it are."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("snapshot.mem"):
            start, _, end = line.split()[0].partition("-")
            page_out(pid, int(start, 16), int(end, 16) - int(start, 16))
    return swapped_bytes(pid)


@needs_qemu
@pytest.mark.root
async def test_pages_that_were_swapped_out_are_frozen_too(
    freezer: Freezer, rig: Rig, tmp_path: Path
) -> None:
    spec, vm = await freezer.source()
    with swap_file(tmp_path):
        await vm.pause()
        # The kernel passes over a page that has only just come into use.
        await until(lambda: _pages_out(vm.handle.pid) > 0, "pages are swapped out")
        moment = await freezer.freeze(spec, vm)
        fork_spec, _ = await freezer.fork(moment)
    for one in (spec, fork_spec):
        await freezer.assert_counts_without_a_gap(one)


@pytest.fixture
async def own_disks(vms: Keeper, rig: Rig) -> Disks:
    return Disks(rig, (await vms.driver.probe()).capabilities.qcow2_overlays)


async def test_a_vm_in_use_is_frozen_with_its_disk_and_so_are_its_forks(
    freezer: Freezer, vms: Keeper, rig: Rig, own_disks: Disks
) -> None:
    spec = await own_disks.make(rig.make_spec())
    _, vm = await vms.boot(spec)
    kept: list[tuple[FrozenVm, int]] = []
    for value in (0x11, 0x22, 0x33):
        await own_disks.write(vm, spec, value)
        folder = rig.make_template_dir()
        moment = await freeze_vm(vm, spec, folder, os.getgid())
        assert await vm.status() is VmStatus.RUNNING
        assert moment.standstill_s > 0
        kept.append((moment, value))
        await own_disks.write(vm, spec, 0xEE)
    for moment, value in kept:
        assert await own_disks.read(moment.disk) == value
        assert moment.disk.path.parent == moment.machine.state.parent
    # A fork of the second moment, in which the same is done again.
    second = kept[1][0]
    fork_spec = rig.make_spec()
    disk = await fork_disk(second.disk, fork_spec.run_dir)
    fork_spec = replace(fork_spec, disks=(disk,))
    memory = rig.home / "second.mem"
    lay_over(None, StoredFile(second.machine.difference), memory, Event())
    _, fork = await vms.restore(
        MachineSnapshot(memory, second.machine.state, frozen=True), fork_spec
    )
    await rig.counts_past(fork_spec, 0)
    await own_disks.write(fork, fork_spec, 0x44)
    third = await freeze_vm(fork, fork_spec, rig.make_template_dir(), os.getgid())
    await own_disks.write(fork, fork_spec, 0x55)
    await vm.kill()
    await fork.kill()
    # Neither needs the other's folder, nor that of the moment.
    shutil.rmtree(spec.run_dir)
    for moment, _ in kept:
        shutil.rmtree(moment.disk.path.parent)
    assert await own_disks.read(third.disk) == 0x44
    assert await own_disks.read(fork_spec.disks[0]) == 0x55


async def test_a_freeze_that_fails_leaves_disk_and_folder_as_they_were(
    vms: Keeper, rig: Rig, own_disks: Disks
) -> None:
    spec = await own_disks.make(rig.make_spec())
    _, vm = await vms.boot(spec)
    await own_disks.write(vm, spec, 0x11)
    before = {path.name for path in spec.run_dir.iterdir()}
    folder = rig.make_template_dir()
    (folder / "snapshot.diff").touch()  # in the way of the new one
    with pytest.raises(HostError):
        await freeze_vm(vm, spec, folder, os.getgid())
    assert list(folder.iterdir()) == []
    assert {path.name for path in spec.run_dir.iterdir()} == before
    assert await vm.status() is VmStatus.RUNNING
    await own_disks.write(vm, spec, 0x22)
    await rig.counts_past(spec, rig.count(spec))
    await vm.kill()
    assert await own_disks.read(spec.disks[0]) == 0x22


@needs_qemu
async def test_a_disk_that_was_frozen_is_not_written_to_again(
    vms: Keeper, rig: Rig, own_disks: Disks
) -> None:
    spec = await own_disks.make(rig.make_spec())
    _, vm = await vms.boot(spec)
    await own_disks.write(vm, spec, 0x11)
    await vm.pause()
    with pytest.raises(HypervisorError):
        await vm.lay_overlay(replace(spec.disks[0], path=rig.home / "nothing.qcow2"))
    overlay = await disk_layers.add_layer(spec.disks[0])
    await vm.lay_overlay(overlay)
    await vm.resume()
    # As when the manager was killed right here: what the VM writes to is found, and no other.
    before = spec.disks[0].path.read_bytes()
    await own_disks.write(vm, spec, 0x22)
    await vm.grow_disk(2 << 20)
    assert spec.disks[0].path.read_bytes() == before
    await vm.kill()
    disk_layers.settle(spec.disks[0])
    assert await own_disks.read(spec.disks[0]) == 0x22
    assert disk_layers.virtual_bytes(spec.disks[0].path) == 2 << 20
    (layer,) = disk_layers.layers(spec.run_dir)
    assert await own_disks.read(Disk(layer)) == 0x11
