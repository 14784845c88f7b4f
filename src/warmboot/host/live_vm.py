"""A VM that is there, and the connection to the agent in its guest."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from warmboot.host.guest_link import AGENT_PORT, GuestLink
from warmboot.hypervisors.base import Vm
from warmboot.model.errors import VmGone
from warmboot.model.vm import VmStatus

T = TypeVar("T")


@dataclass(slots=True)
class LiveVm:
    vm: Vm
    link: GuestLink

    @classmethod
    def of(cls, vm: Vm, vm_id: str, token: str) -> LiveVm:
        return cls(vm, GuestLink(vm_id, vm.guest_address(AGENT_PORT), token))

    async def is_alive(self) -> bool:
        """Whether its VMM is there."""
        return await self.vm.status() is not VmStatus.GONE

    async def let_go(self) -> None:
        """It runs on."""
        await self.link.close()
        await self.vm.detach()

    async def kill(self) -> None:
        await self.link.close()
        await self.vm.kill()

    async def exercise(self) -> None:
        """Run throw-away containers in the guest, have it forget who it was, and pause it."""
        await self.while_alive(self.link.warm_up())
        await self.while_alive(self.link.prepare_snapshot())
        await self.vm.pause()

    async def while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``'s result, or ``VmGone`` if the VMM ends before it."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self.vm.wait_gone())
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                gone = VmGone(f"the VMM of {self.vm.handle.vm_id} ended unexpectedly")
                raise self.vm.end_cause() or gone
            return working.result()
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)
