"""VMs that exist but do not answer: kept, asked again, and ended only by a user.

A VMM that was stopped (SIGSTOP), waits for a hung disk, or gets no processor time looks like a dead
one to whoever asks it. Whether it is dead is told by its process alone.

    adoption ───────no answer──▶ unresponsive ──answers──▶ held as any other
    held, silent for long ────▶      │ its process ends, or its owner ends it
                                     ▼
                                    gone

One that is held already stays so, with its connections: it may only be very busy, and whoever has a
session in it goes on when it does. It is asked through its guest's agent, which answers only if the
VMM and the guest do.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass

import structlog

from warmboot.host.vm.live_vm import LiveVm, no_answer
from warmboot.hypervisors.base import Hypervisor, Vm
from warmboot.hypervisors.process import VmmProcess, is_stopped
from warmboot.model.errors import (
    DiskFull,
    GuestUnreachable,
    VmGone,
    VmUnresponsive,
    WarmbootError,
)
from warmboot.model.vm import VmRecord
from warmboot.system.back_off import BackOff
from warmboot.system.disks import os_error
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

ADOPT_WAIT_S = 10.0
"""How long the start of the manager waits for a VMM."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0

_STOPPED = "its process is stopped (SIGSTOP)"


ASKED = 3
"""How often a VM that is held is asked before it counts as silent."""


@dataclass(slots=True)
class Unresponsive:
    record: VmRecord
    process: VmmProcess
    error: VmUnresponsive


class UnresponsiveVms:
    """The VMs of one host that give no answer."""

    def __init__(self, hypervisor: Hypervisor, silent_after_s: float) -> None:
        self._hypervisor = hypervisor
        self._silent_after_s = silent_after_s
        self.vms: dict[str, Unresponsive] = {}
        """Those that were never attached to."""
        self._silent: dict[str, VmUnresponsive] = {}

    def why(self, vm_id: str | None) -> VmUnresponsive | None:
        """Why it cannot be asked anything, if that is so."""
        if vm_id is None:
            return None
        one = self.vms.get(vm_id)
        told = self._silent.get(vm_id) if one is None else one.error
        if told is None:
            return None
        # A new one each time: an error that is raised keeps where that was.
        return VmUnresponsive(told.brief, details=told.details, resolution=told.resolution)

    def is_there(self, vm_id: str) -> bool:
        """Whether it is unresponsive, and has not ended."""
        one = self.vms.get(vm_id)
        return vm_id in self._silent if one is None else one.process.alive

    async def until_silent(self, vm_id: str, machine: LiveVm) -> None:
        """Return when a VM that is held has given no answer for long; ``VmGone``.

        A stall for want of room is told by others, and is no silence.
        """
        while vm_id not in self._silent:
            try:
                why = await machine.while_alive(self._silence(machine))
            except DiskFull:
                await asyncio.sleep(self._silent_after_s / ASKED)
                continue
            error = self._silent[vm_id] = no_answer(machine.vm.handle, why)
            log.error(error.brief, details=error.details, resolution=error.resolution)

    async def until_heard(self, vm_id: str, machine: LiveVm) -> None:
        """Return when a VM that is held answers again; ``VmGone``, also when it was ended."""
        try:
            while True:
                with contextlib.suppress(DiskFull):
                    await machine.while_alive(self._answer(machine))
                    break
                await asyncio.sleep(LONGEST_PAUSE_S)
        finally:
            self._silent.pop(vm_id, None)

    def forget(self, vm_id: str) -> None:
        """Forget a VM that has ended."""
        self._silent.pop(vm_id, None)

    async def _silence(self, machine: LiveVm) -> str:
        """Why it counts as silent, once it does."""
        loop, pause_s = asyncio.get_running_loop(), self._silent_after_s / ASKED
        missed = 0
        # Those that were adopted in the same moment are not all asked in the same moment.
        await asyncio.sleep(random.uniform(0, pause_s))
        while True:
            await machine.runs.wait()  # one that is paused owes no answer
            next_s = loop.time() + pause_s
            try:
                await machine.link.pulse(pause_s)
                missed = 0
            except GuestUnreachable as error:
                if not machine.runs.is_set():
                    continue
                missed += 1
                if await asyncio.to_thread(is_stopped, machine.vm.handle.pid):
                    return _STOPPED
                if missed == ASKED:
                    within = f"no answer from its guest within {self._silent_after_s:g} s"
                    return f"its process is there, and {within} ({error.details})"
            await asyncio.sleep(next_s - loop.time())

    async def _answer(self, machine: LiveVm) -> None:
        """Return when there is one."""
        loop, back_off = asyncio.get_running_loop(), BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            pause_s = back_off.take_s()
            next_s = loop.time() + pause_s
            try:
                return await machine.link.pulse(max(ADOPT_WAIT_S, pause_s))
            except GuestUnreachable:
                await asyncio.sleep(next_s - loop.time())  # nothing tells that it answers again

    async def adopt(self, record: VmRecord) -> Vm | None:
        """The VM of another manager; ``None`` if it does not answer, which is noted here.

        ``VmGone`` if its VMM is no more.
        """
        try:
            return await self._ask(record)
        except VmUnresponsive as error:
            assert record.handle is not None
            process = VmmProcess.attach(record.handle)
            self.vms[record.id] = Unresponsive(record, process, error)
            log.error(error.brief, details=error.details, resolution=error.resolution)
            return None

    async def until_answers(self, vm_id: str) -> tuple[VmRecord, Vm]:
        """The VM, once it answers; ``VmGone`` when it has ended or was ended."""
        back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while (one := self.vms.get(vm_id)) is not None:
            with contextlib.suppress(TimeoutError):
                # Nothing tells that it answers again.
                async with asyncio.timeout(back_off.take_s()):
                    await one.process.wait()
            try:
                vm = await self._ask(one.record)
            except VmUnresponsive:
                continue
            except VmGone:
                break
            if self.vms.pop(vm_id, None) is None:  # it was ended meanwhile
                await vm.detach()
                break
            one.process.close()
            return one.record, vm
        if (left := self.vms.pop(vm_id, None)) is not None:
            left.process.close()
        raise VmGone(f"the VMM of {vm_id} ended without having answered again")

    async def kill(self, vm_id: str) -> None:
        """SIGKILL ends a stopped process, too. Idempotent."""
        one = self.vms.pop(vm_id, None)
        if one is None:
            return
        with on_failure(lambda: self.vms.update({vm_id: one})):
            await one.process.kill()

    def let_go(self) -> None:
        for one in self.vms.values():
            one.process.close()
        self.vms.clear()

    async def _ask(self, record: VmRecord) -> Vm:
        """Attach to it: ``VmGone`` if its process is no more, ``VmUnresponsive`` if it is."""
        assert record.handle is not None
        if await asyncio.to_thread(is_stopped, record.handle.pid):
            VmmProcess.attach(record.handle).close()  # VmGone if that is another process
            raise no_answer(record.handle, _STOPPED)
        try:
            async with asyncio.timeout(ADOPT_WAIT_S):
                return await self._hypervisor.attach(record.spec, record.handle)
        except TimeoutError:
            why = f"its process is there, and gave no answer in {ADOPT_WAIT_S:g} s"
        except WarmbootError as error:
            why = str(error)
        except OSError as error:
            why = str(os_error(error))
        except Exception as error:  # a mistake of ours is no reason to end somebody's VM
            log.exception("a VM could not be attached to", vm=record.id)
            why = repr(error)
        VmmProcess.attach(record.handle).close()
        raise no_answer(record.handle, why)
