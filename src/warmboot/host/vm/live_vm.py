"""A running VM, and the connection to the guest agent in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from warmboot.host.guest.guest_link import AGENT_PORT, GuestLink
from warmboot.host.vm import freeze_vm
from warmboot.hypervisors.base import Vm
from warmboot.model.errors import DiskFull, HypervisorError, VmGone, VmUnresponsive
from warmboot.model.vm import VmHandle, VmSpec, VmStatus
from warmboot.system.concurrency import race
from warmboot.system.disks import disk_full
from warmboot.system.on_failure import on_failure

T = TypeVar("T")

STEADY_S = 1.0
"""A VM that has stalled and was resumed runs on if it has not stalled again by then."""

LOOK_AGAIN_S = 1.0

STATUS_S = 5.0

ANSWER_S = 20.0
"""How long a VMM may take to have its VM stand still or run: it writes out what it has cached of
the disks first."""

CONNECT_S = 60.0
"""A VM that is made ready in the background runs when nobody else wants to."""


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class LiveVm:
    """``runs`` is set unless somebody has paused it."""

    vm: Vm
    link: GuestLink
    runs: asyncio.Event = field(default_factory=_set)

    @classmethod
    def of(cls, vm: Vm, vm_id: str, token: str) -> LiveVm:
        return cls(vm, GuestLink(vm_id, vm.guest_address(AGENT_PORT), token))

    async def pause(self) -> None:
        """Have it stand still in memory. Idempotent; ``DiskFull`` if it has stalled."""
        ran = self.runs.is_set()
        self.runs.clear()  # before: that it does not answer then is no silence
        async with on_failure(lambda: self.look(else_runs=ran)):
            async with self._in_time():
                await self.vm.pause()
                status = await self.vm.status()
            if status is VmStatus.STALLED:  # it will be resumed when there is room
                raise disk_full(self.vm.handle.run_dir)

    async def resume(self) -> None:
        """Have it run on. Idempotent."""
        async with self._in_time():
            await self.vm.resume()
        self.runs.set()

    async def freeze_in_use(
        self, spec: VmSpec, folder: Path, gid: int, *, stays: bool
    ) -> freeze_vm.FrozenVm:
        """See ``freeze_vm``."""
        if stays:
            self.runs.clear()
        async with on_failure(self.look):
            return await freeze_vm.freeze_vm(self.vm, spec, folder, gid, stays=stays)

    async def go_on(self, spec: VmSpec) -> None:
        """``resume`` for one whose freeze may have been broken off. Idempotent."""
        async with self._in_time():
            await freeze_vm.go_on(self.vm, spec)
        self.runs.set()

    async def look(self, *, else_runs: bool = True) -> None:
        """Whether it runs: another manager may have paused it. ``else_runs`` if it does not say."""
        runs = else_runs
        with contextlib.suppress(TimeoutError, HypervisorError):  # that is told by others
            async with asyncio.timeout(STATUS_S):
                runs = await self.vm.status() is not VmStatus.PAUSED
        (self.runs.set if runs else self.runs.clear)()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """``VmUnresponsive`` if its VMM hangs: it does later, and in order, what it was told."""
        try:
            async with asyncio.timeout(ANSWER_S):
                yield
        except TimeoutError:
            why = f"its process is there, and gave no answer within {ANSWER_S:g} s"
            raise no_answer(self.vm.handle, why) from None

    async def is_alive(self) -> bool:
        """Whether its VMM is there; one that does not say has not ended."""
        try:
            async with asyncio.timeout(STATUS_S):
                return await self.vm.status() is not VmStatus.GONE
        except TimeoutError:
            return True

    async def let_go(self) -> None:
        """Close the connections to the VM, which runs on."""
        await self.link.close()
        await self.vm.detach()

    async def kill(self) -> None:
        await self.link.close()
        await self.vm.kill()

    async def freeze(self) -> None:
        """Run throw-away containers in the guest, have it forget who it was, and pause it."""
        await self._exercise(wake_docker=True)
        await self.vm.pause()

    async def prewarm(self) -> None:
        """The same, with a connection to its agent that is there when it runs on."""
        await self._exercise(wake_docker=False)
        await self.while_alive(self.link.health(timeout_s=CONNECT_S))
        await self.vm.pause()

    async def _exercise(self, wake_docker: bool) -> None:
        await self.while_alive(self.link.warm_up())
        await self.while_alive(self.link.docker.ping())  # the way to it is exercised, too
        await self.while_alive(self.link.prepare_snapshot(wake_docker))

    async def grow_disk(self, size_bytes: int) -> None:
        """The disk, and the file system on it. Idempotent."""
        await self.vm.grow_disk(size_bytes)
        await self.while_alive(self.link.grow_disk(size_bytes))

    async def wait_stalled(self) -> None:
        """Return when it stands still because the disk is full; ``VmGone`` if its VMM ends."""
        with contextlib.suppress(DiskFull):
            await self.while_alive(asyncio.Event().wait())

    async def while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """``work``'s result; ``VmGone`` if the VMM ends before it, ``DiskFull`` if it stalls."""
        done, gone, _ = await race(work, self.vm.wait_gone(), self._stalled())
        if done is not None:
            return done.result()
        if gone is not None:
            raise self.vm.end_cause() or self._gone()
        raise disk_full(self.vm.handle.run_dir)

    async def resume_stalled(self, make_room: Callable[[], Awaitable[bool]]) -> None:
        """Let it run on once ``make_room`` has some; return when it does. ``VmGone``."""
        while await self.is_alive():
            if await make_room():
                with contextlib.suppress(VmUnresponsive):  # it is told once more
                    await self.vm.resume()
                    try:
                        async with asyncio.timeout(STEADY_S):
                            await self.wait_stalled()
                    except TimeoutError:
                        return
            # Nothing tells that a file system has room again.
            await asyncio.sleep(LOOK_AGAIN_S)
        raise self._gone()

    def _gone(self) -> VmGone:
        return VmGone(f"the VMM of {self.vm.handle.vm_id} ended unexpectedly")

    async def _stalled(self) -> None:
        while True:
            try:
                return await self.vm.wait_stalled()
            except VmUnresponsive:  # it is asked again, after the time that it had
                continue
            except HypervisorError:  # its VMM is about to be gone, and that is told by its end
                await asyncio.Event().wait()


def no_answer(handle: VmHandle, why: str) -> VmUnresponsive:
    """The error for a VM that is there and does not answer."""
    pid = handle.pid
    return VmUnresponsive(
        f"the VM {handle.vm_id} does not answer",
        details=f"{why}; pid {pid}",
        resolution=f"it is asked again, and continues when it answers (`kill -CONT {pid}`, if it "
        "was stopped); `warmboot stop` and `warmboot rm -f` end it",
    )
