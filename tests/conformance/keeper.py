"""Starts VMs for a test, ends them after it, and finds what they leave behind."""

from __future__ import annotations

import asyncio

from tests.conformance.rigs import Rig
from tests.support.eventually import eventually, until

from warmboot.hypervisors.base import Hypervisor, MachineSnapshot, Vm
from warmboot.model.vm import VmHandle, VmSpec

REAPED_WITHIN_S = 60.0

STILL_S = 0.3
"""Fifteen periods of the counter."""


class Keeper:
    """Starts VMs through a driver and ends them when the test is over."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.driver: Hypervisor = rig.driver()
        self._vms: list[Vm] = []

    def handles(self) -> list[VmHandle]:
        return [vm.handle for vm in self._vms]

    def keep(self, vm: Vm) -> Vm:
        self._vms.append(vm)
        return vm

    async def detach(self, vm: Vm) -> None:
        """Let go of a VM: it is no longer ended through this object."""
        self._vms.remove(vm)
        await vm.detach()

    async def boot(self, spec: VmSpec | None = None) -> tuple[VmSpec, Vm]:
        """A VM that has begun to count."""
        spec = spec or self.rig.make_spec(template_dir=self.rig.make_template_dir())
        vm = self.keep(await self.driver.boot(spec))
        await self.rig.counts_past(spec, 0)
        return spec, vm

    async def restore(
        self, snapshot: MachineSnapshot, spec: VmSpec | None = None
    ) -> tuple[VmSpec, Vm]:
        spec = spec or self.rig.make_spec()
        return spec, self.keep(await self.driver.restore(spec, snapshot))

    async def saved(self) -> tuple[VmSpec, MachineSnapshot]:
        """A snapshot of a VM that counted, was saved and killed."""
        spec, vm = await self.boot()
        await vm.pause()
        snapshot = await vm.save()
        await vm.kill()
        return spec, snapshot

    async def stands_still(self, spec: VmSpec) -> bytes:
        """All that it has printed, once nothing is on its way to the log any more."""

        async def still() -> bool:
            before = self.rig.printed(spec)
            await asyncio.sleep(STILL_S)
            return self.rig.printed(spec) == before

        await eventually(still, "nothing is printed any more")
        return self.rig.printed(spec)

    async def end(self) -> None:
        for vm in self._vms:
            await vm.kill()
        await self.nothing_is_left()

    async def nothing_is_left(self) -> None:
        """No process, soon: one that another one adopted is reaped by init, a while later."""
        await until(lambda: not self.rig.left_over(), "nothing is left over", REAPED_WITHIN_S)
