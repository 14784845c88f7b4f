"""A QEMU that hangs in its monitor: each wait ends, and what is left is true when it goes on."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.support.fake_monitor import monitored
from typing_extensions import override

from warmboot.host.vm import disk_layers, live_vm
from warmboot.host.vm.freeze_vm import freeze_vm, go_on
from warmboot.host.vm.live_vm import LiveVm
from warmboot.hypervisors.base import FrozenMachine
from warmboot.hypervisors.qemu.vm import QemuVm
from warmboot.model.errors import VmUnresponsive
from warmboot.model.vm import Disk, GuestAddress
from warmboot.system import disks

LIMIT_S = 0.3
"""Of what never answers. What answers has as long as a slow machine takes for it."""

GUARD_S = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="wb-") as name:
        yield Path(name)


@pytest.fixture
def disk(folder: Path) -> Disk:
    path = folder / "disk.ext4"
    path.write_bytes(bytes(4096))
    return Disk(path)


@pytest.mark.parametrize("command", ["query-status", "stop", "cont", "query-block", "blockdev-add"])
async def test_a_command_that_is_not_answered_is_told_after_its_limit(
    folder: Path, disk: Disk, command: str
) -> None:
    async with monitored(folder, disk, [command], LIMIT_S) as (vm, _):
        async with asyncio.timeout(GUARD_S):
            with pytest.raises(VmUnresponsive, match="does not answer") as told:
                await vm._execute(command)
        assert f"no answer to {command} within {LIMIT_S:g} s" in told.value.details
        assert await asyncio.to_thread(Path(f"/proc/{vm.handle.pid}").exists)


async def test_one_that_hangs_when_its_stall_is_awaited_is_asked_again(
    folder: Path, disk: Disk
) -> None:
    asked: list[str] = []

    class Late(QemuVm):
        """It does not answer at first; then it has stalled."""

        @override
        async def wait_stalled(self) -> None:
            asked.append("stalled?")
            if len(asked) == 1:
                raise VmUnresponsive("it hangs")

        @override
        def guest_address(self, port: int) -> GuestAddress:
            return GuestAddress(port, vsock_socket=folder / "guest")

    async with monitored(folder, disk, kind=Late) as (vm, _), asyncio.timeout(GUARD_S):
        await LiveVm.of(vm, "vm-1", "token").wait_stalled()
    assert len(asked) == 2


async def test_a_stalled_vm_that_hangs_is_told_to_go_on_once_more(
    folder: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_vm, "STEADY_S", 0.01)
    monkeypatch.setattr(live_vm, "LOOK_AGAIN_S", 0.01)
    told: list[str] = []

    class Late(QemuVm):
        @override
        async def resume(self) -> None:
            told.append("cont")
            if len(told) == 1:
                raise VmUnresponsive("it hangs")

        @override
        def guest_address(self, port: int) -> GuestAddress:
            return GuestAddress(port, vsock_socket=folder / "guest")

    async def make_room() -> bool:
        return True

    async with monitored(folder, disk, kind=Late) as (vm, _), asyncio.timeout(GUARD_S):
        await LiveVm.of(vm, "vm-1", "token").resume_stalled(make_room)
    assert len(told) == 2


@pytest.fixture
async def overlay(folder: Path) -> Disk:
    base = folder / "base.ext4"
    base.write_bytes(bytes(1 << 20))
    return await disks.overlay(base, folder / "disk.qcow2")


class Frozen(QemuVm):
    """Its memory is nobody's concern here."""

    @override
    async def freeze(self, folder: Path) -> FrozenMachine:
        return FrozenMachine(folder / "difference", folder / "state", based=False)


async def test_an_overlay_that_a_killed_manager_has_opened_is_closed_before_the_next_freeze(
    folder: Path, overlay: Disk
) -> None:
    """QEMU would hold its lock, and no fork could have it below its own disk."""
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    async with monitored(folder, overlay, kind=Frozen) as (vm, monitor):
        monitor.nodes = ["overlay-0123456789ab"]
        await freeze_vm(vm, vm.spec, first, os.getegid())
        (laid,) = monitor.nodes
        assert laid != "overlay-0123456789ab"
        monitor.told.clear()
        await freeze_vm(vm, vm.spec, second, os.getegid())
        assert "query-named-block-nodes" not in monitor.told, "it has them all in mind"


async def test_an_overlay_that_is_written_to_is_kept_if_it_cannot_be_put_in_its_place(
    folder: Path, overlay: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, new = folder / "frozen", overlay.path.with_name("disk.qcow2.new")
    target.mkdir()

    def full(disk: Disk) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with monitored(folder, overlay, kind=Frozen) as (vm, _):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
            patch.setattr(disk_layers, "settle", full)
            await freeze_vm(vm, vm.spec, target, os.getegid())
        written_to = new.stat().st_ino
        await go_on(vm, vm.spec)
    assert overlay.path.stat().st_ino == written_to
    assert len(disk_layers.layers(folder)) == 1


@pytest.mark.parametrize("silent_at", ["blockdev-add", "blockdev-snapshot"])
async def test_an_overlay_that_may_yet_be_written_to_is_kept_in_its_place(
    folder: Path, overlay: Disk, silent_at: str
) -> None:
    """The guest's writes go there once QEMU answers: a later boot from its disk must find them."""
    target, as_it_was = folder / "frozen", overlay.path.stat().st_ino
    target.mkdir()
    async with monitored(folder, overlay, [silent_at], LIMIT_S, Frozen) as (vm, monitor):
        async with asyncio.timeout(GUARD_S):
            with pytest.raises(VmUnresponsive, match="does not answer"):
                await freeze_vm(vm, vm.spec, target, 0)
    assert silent_at in monitor.told
    assert list(folder.glob("*.new")) == []
    if silent_at == "blockdev-add":  # it runs meanwhile, and was not told to write there
        assert "stop" not in monitor.told
        assert disk_layers.layers(folder) == []
        assert overlay.path.stat().st_ino == as_it_was
        return
    (layer,) = disk_layers.layers(folder)
    assert layer.stat().st_ino == as_it_was != overlay.path.stat().st_ino
    assert layer.name.encode() in overlay.path.read_bytes()
