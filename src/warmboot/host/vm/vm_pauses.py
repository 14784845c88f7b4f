"""VMs that somebody has paused: they stand still in memory, and take no processor time.

A pause outlives the manager; the next one sees it when it takes the VM over.
"""

from __future__ import annotations

from collections.abc import Callable

from warmboot.host.vm.live_vm import LiveVm


class VmPauses:
    """``machine`` gives a VM by its id, or raises ``VmGone`` or ``VmUnresponsive``."""

    def __init__(self, machine: Callable[[str], LiveVm]) -> None:
        self._machine = machine

    async def pause(self, vm_id: str) -> None:
        await self._machine(vm_id).pause()

    async def resume(self, vm_id: str) -> None:
        """Have it run on. Its clock has stood still, too."""
        await self._machine(vm_id).resume()

    def is_paused(self, vm_id: str) -> bool:
        return not self._machine(vm_id).runs.is_set()

    async def until_runs(self, vm_id: str) -> None:
        """Return when it is not paused; ``VmGone`` if its VMM ends first."""
        machine = self._machine(vm_id)
        if not machine.runs.is_set():
            await machine.while_alive(machine.runs.wait())
