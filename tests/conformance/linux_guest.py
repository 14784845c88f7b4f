"""The warm way with the real runtime image: boot, Docker, save, and a clone in which it answers."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.firecracker import Namespace

from warmboot.host.guest.guest_link import GuestLink, Identity
from warmboot.hypervisors.base import Hypervisor, MachineSnapshot, Vm
from warmboot.images.files import load_manifest
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, Nic, VmSpec
from warmboot.system import disks

AGENT_PORT = 1024
BOOT_TIMEOUT_S = 180.0


async def restored_docker_version(driver: Hypervisor, image: Path, home: Path) -> str:
    """Freeze a VM with Docker ready, restore it elsewhere, and ask Docker there."""
    template = home / "template"
    template.mkdir()
    async with Namespace() as nic:
        spec = await _make_spec(image, image / "disk.ext4", home / "saved", nic, template)
        vm = await driver.boot(spec)
        try:
            snapshot = await _freeze(vm)
        finally:
            await vm.kill()
    async with Namespace() as nic:
        writable = spec.disks[1].path
        clone_spec = await _make_spec(image, writable, home / "clone", nic, None)
        clone = await driver.restore(clone_spec, snapshot)
        try:
            async with _claimed(clone) as link:
                return (await link.docker.facts()).version
        finally:
            await clone.kill()


async def _make_spec(
    image: Path, disk: Path, run_dir: Path, nic: Nic, template_dir: Path | None
) -> VmSpec:
    run_dir.mkdir()
    writable = await disks.copy(disk, run_dir / "disk.ext4")
    return VmSpec(
        id=f"linux-{secrets.token_hex(4)}",
        run_dir=run_dir,
        shape=Shape(1, 768),
        kernel=image / "kernel",
        initrd=image / "initrd",
        cmdline=load_manifest(image).cmdline,
        disks=(Disk(image / "rootfs.ext4", read_only=True), writable),
        nic=nic,
        template_dir=template_dir,
    )


async def _freeze(vm: Vm) -> MachineSnapshot:
    async with _claimed(vm) as link:
        await link.prepare_snapshot()
    await vm.pause()
    return await vm.save()


@asynccontextmanager
async def _claimed(vm: Vm) -> AsyncIterator[GuestLink]:
    """A link to a guest that has its identity and in which Docker has answered."""
    link = GuestLink(vm.handle.vm_id, vm.guest_address(AGENT_PORT), secrets.token_hex(16))
    try:
        await link.claim(Identity("linux", secrets.token_hex(16), link.token), BOOT_TIMEOUT_S)
        await link.wait_for_docker(BOOT_TIMEOUT_S)
        yield link
    finally:
        await link.close()
