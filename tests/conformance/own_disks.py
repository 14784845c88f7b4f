"""Writable disks for VMs of the tiny guest."""

from __future__ import annotations

import os
from dataclasses import replace

from tests.conformance.rigs import Rig

from warmboot.hypervisors.base import Vm
from warmboot.hypervisors.qemu.vm import QemuVm
from warmboot.model.vm import Disk, VmSpec
from warmboot.system import disks
from warmboot.system.programs import run_program


class Disks:
    """Writable disks of VMs, written to as their guests would: the tiny guest has no driver."""

    def __init__(self, rig: Rig, layered: bool) -> None:
        self._rig, self._layered = rig, layered

    async def make(self, spec: VmSpec) -> VmSpec:
        """``spec`` with a disk in its own folder."""
        base = self._rig.make_disk("base")
        target = spec.run_dir / ("disk.qcow2" if self._layered else "disk.ext4")
        disk = await (disks.overlay if self._layered else disks.copy)(base.path, target)
        return replace(spec, disks=(disk,))

    async def write(self, vm: Vm, spec: VmSpec, value: int) -> None:
        if isinstance(vm, QemuVm):
            # As the guest's own device: nobody else may write to what that has open.
            blocks = await vm._execute("query-block")
            device = next(one["qdev"] for one in blocks if not one["inserted"]["ro"])
            line = f'qemu-io -d {device} "write -P {value} 0 64k"'
            said = await vm._execute("human-monitor-command", **{"command-line": line})
            assert said == ""  # what went well it prints elsewhere
        else:
            with spec.disks[0].path.open("r+b") as file:
                file.write(bytes([value]) * (64 << 10))

    async def read(self, disk: Disk) -> int:
        """What a guest sees at the beginning of a disk that nobody writes to."""
        plain = self._rig.home / f"{os.urandom(4).hex()}.img"
        await run_program(*("qemu-img", "convert", "-O", "raw", disk.path, plain), timeout_s=60)
        return plain.read_bytes()[0]
