"""One rig per hypervisor: how a test makes its VMs count, and how it breaks its driver.

All rigs run a guest that counts in its memory and prints the numbers: the tiny guest, or the
simulated machine's own counter.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.support import tiny_guest
from tests.support.firecracker import firecracker_binary, kvm_opens
from typing_extensions import override

from warmboot.hypervisors.base import Hypervisor, Vm
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig
from warmboot.hypervisors.qemu.config import QemuConfig
from warmboot.hypervisors.qemu.driver import Qemu
from warmboot.hypervisors.simulated.config import SimulatedConfig
from warmboot.hypervisors.simulated.driver import Simulated
from warmboot.hypervisors.simulated.vmm.machine import COUNTER_OPTION
from warmboot.model.shapes import Shape
from warmboot.model.vm import Disk, VmSpec
from warmboot.system import procfs

SHAPE = Shape(1, 256)


@dataclass
class Rig:
    """``home`` is a short-named folder that every user may enter; all VMs live below it."""

    name: ClassVar[str]
    console: ClassVar[str]
    cmdline: ClassVar[str] = ""
    home: Path
    confinement: Confinement = field(default_factory=Confinement)
    ids: list[str] = field(default_factory=list)

    async def prepare(self) -> None:
        """Once, before any driver is made."""

    def driver(self) -> Hypervisor:
        raise NotImplementedError

    def unusable_driver(self) -> Hypervisor:
        """One that lacks what it needs on the machine."""
        raise NotImplementedError

    def newer_driver(self) -> Hypervisor:
        """One of another version."""
        raise NotImplementedError

    @property
    def kernel(self) -> Path:
        return self.home / "kernel"

    def make_spec(
        self,
        *,
        shape: Shape = SHAPE,
        disks: tuple[Disk, ...] = (),
        template_dir: Path | None = None,
        uid: int = 0,
        vm_id: str = "",
    ) -> VmSpec:
        vm_id = vm_id or f"{self.name[:2]}-{secrets.token_hex(6)}"
        self.ids.append(vm_id)
        run_dir = self.home / vm_id
        run_dir.mkdir(exist_ok=True)
        if not self.kernel.exists():
            self.write_kernel()
        if uid:
            os.chown(run_dir, uid, uid)
        return VmSpec(
            id=vm_id,
            run_dir=run_dir,
            shape=shape,
            kernel=self.kernel,
            initrd=None,
            cmdline=self.cmdline,
            disks=disks,
            template_dir=template_dir,
            uid=uid,
        )

    def write_kernel(self) -> None:
        tiny_guest.write(self.kernel)

    def make_template_dir(self) -> Path:
        folder = self.home / f"template-{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    def make_disk(self, name: str) -> Disk:
        path = self.home / f"{name}-{secrets.token_hex(4)}.img"
        path.write_bytes(bytes(1 << 20))
        return Disk(path)

    def printed(self, spec: VmSpec) -> bytes:
        """All that the VM's guest has printed."""
        try:
            return (spec.run_dir / self.console).read_bytes()
        except FileNotFoundError:
            return b""

    def count(self, spec: VmSpec) -> int:
        return tiny_guest.last_number(spec.run_dir / self.console)

    async def counts_past(self, spec: VmSpec, number: int) -> int:
        """Wait until the VM's guest has printed a greater number."""
        return await tiny_guest.counts_past(spec.run_dir / self.console, number)

    def left_over(self) -> list[str]:
        """Command lines of processes, zombies too, that name one of this rig's VMs."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                line = " ".join(procfs.arguments(entry))
                parent = procfs.stat_fields(entry)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(vm_id in line for vm_id in self.ids):
                found.append(line)
            elif parent[0] == "Z" and int(parent[1]) == os.getpid():
                found.append(f"zombie {entry.name}")
        return found


class SimulatedRig(Rig):
    name = "simulated"
    console = "console.log"
    cmdline = COUNTER_OPTION

    @override
    def driver(self) -> Simulated:
        return Simulated(SimulatedConfig(boot_s=0, docker_s=0, restore_s=0))

    @override
    def unusable_driver(self) -> Simulated:
        broken = self.home / "broken.json"
        broken.write_text("{")
        return Simulated(SimulatedConfig(overrides=broken))

    @override
    def newer_driver(self) -> Simulated:
        return Simulated(SimulatedConfig(version="2.0"))


class FirecrackerRig(Rig):
    name = "firecracker"
    console = "console.log"
    binary: Path

    @override
    async def prepare(self) -> None:
        self.binary = await firecracker_binary()

    @override
    def driver(self) -> Firecracker:
        return Firecracker(FirecrackerConfig(binary=str(self.binary)), self.confinement)

    @override
    def unusable_driver(self) -> Firecracker:
        return Firecracker(FirecrackerConfig(binary=str(self.home / "nothing")))

    @override
    def newer_driver(self) -> Firecracker:
        other = self.home / "other-firecracker"
        answers = {"--version": "Firecracker v9.9.9", "--snapshot-version": "v99.0.0"}
        _write_impostor(other, self.binary, answers)
        return Firecracker(FirecrackerConfig(binary=str(other)))


class QemuRig(Rig):
    name = "qemu"
    console = "console.log"

    @override
    def write_kernel(self) -> None:
        tiny_guest.write(self.kernel, pvh=True)

    @override
    def driver(self) -> Qemu:
        return Qemu(QemuConfig(), self.confinement)

    @override
    def unusable_driver(self) -> Qemu:
        return Qemu(QemuConfig(binary=str(self.home / "nothing")))

    @override
    def newer_driver(self) -> Qemu:
        real = shutil.which(QemuConfig().binary)
        assert real is not None
        other = self.home / "other-qemu"
        _write_impostor(other, Path(real), {"--version": "QEMU emulator version 99.0.0"})
        return Qemu(QemuConfig(binary=str(other)))


RIGS: dict[str, type[Rig]] = {rig.name: rig for rig in (SimulatedRig, FirecrackerRig, QemuRig)}


def _write_impostor(path: Path, real: Path, answers: dict[str, str]) -> None:
    """A program that gives other answers to some questions, and else is the real one."""
    cases = "".join(
        f"  {question}) echo '{text}'; exit 0;;\n" for question, text in answers.items()
    )
    path.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}esac\nexec {real} "$@"\n')
    path.chmod(0o755)


async def boot_and_report(name: str, home: Path, vm_id: str) -> None:
    """For a test that kills its caller: boot a VM, print what finds it again, and wait."""
    rig = RIGS[name](home)
    await rig.prepare()
    spec = rig.make_spec(vm_id=vm_id)
    vm: Vm = await rig.driver().boot(spec)
    await rig.counts_past(spec, 0)
    handle = vm.handle
    found = {
        "pid": handle.pid,
        "start_time_ticks": handle.start_time_ticks,
        "boot_id": handle.boot_id,
    }
    print(json.dumps(found), flush=True)
    await asyncio.Event().wait()


_MARKS: dict[str, list[pytest.MarkDecorator]] = {
    "simulated": [],
    "firecracker": [
        pytest.mark.firecracker,
        pytest.mark.skipif(not kvm_opens(), reason="/dev/kvm does not open"),
    ],
    "qemu": [pytest.mark.qemu],
}


def params(*names: str) -> list[Any]:
    """These rigs as parameters, each marked with what it needs."""
    return [pytest.param(name, marks=_MARKS[name]) for name in names]
