"""VMMs that are there and do not answer: kept, asked again, and ended by their owner only.

A VMM that was stopped (SIGSTOP), waits for a hung disk, or gets no processor time looks like a dead
one to whoever asks it. Whether it is dead is told by its process alone.

    adoption ──no answer──▶ unresponsive ──answers──▶ held as any other
                                 │ its process ends, or its owner ends it
                                 ▼
                                gone
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from warmboot.host.disks import os_error
from warmboot.hypervisors.base import Hypervisor, Vm
from warmboot.hypervisors.process import VmmProcess, is_stopped
from warmboot.model.errors import VmGone, VmUnresponsive, WarmbootError
from warmboot.model.vm import VmRecord

log = structlog.get_logger(__name__)

ADOPT_WAIT_S = 10.0
"""How long the start of the manager waits for a VMM."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0


@dataclass(slots=True)
class Unresponsive:
    record: VmRecord
    process: VmmProcess
    error: VmUnresponsive


class UnresponsiveVms:
    """Those of one host."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self.vms: dict[str, Unresponsive] = {}

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
        pause_s = FIRST_PAUSE_S
        while (one := self.vms.get(vm_id)) is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):  # nothing tells that it answers again
                    await one.process.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
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
        try:
            await one.process.kill()
        except BaseException:  # cancelled, too; raised again
            self.vms[vm_id] = one
            raise

    def let_go(self) -> None:
        for one in self.vms.values():
            one.process.close()
        self.vms.clear()

    async def _ask(self, record: VmRecord) -> Vm:
        """Attach to it: ``VmGone`` if its process is no more, ``VmUnresponsive`` if it is."""
        assert record.handle is not None
        if await asyncio.to_thread(is_stopped, record.handle.pid):
            VmmProcess.attach(record.handle).close()  # VmGone if that is another process
            raise _unresponsive(record, "its process is stopped (SIGSTOP)")
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
        raise _unresponsive(record, why)


def _unresponsive(record: VmRecord, why: str) -> VmUnresponsive:
    assert record.handle is not None
    pid = record.handle.pid
    return VmUnresponsive(
        f"the VM {record.id} does not answer",
        details=f"{why}; pid {pid}",
        resolution=f"it is asked again, and goes on when it answers (`kill -CONT {pid}`, if it was "
        "stopped); `warmboot stop` and `warmboot rm -f` end it",
    )
