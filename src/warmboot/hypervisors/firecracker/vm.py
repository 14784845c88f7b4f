"""A running Firecracker, driven through its API."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from warmboot.hypervisors.base import FrozenMachine, MachineSnapshot
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.files import tail
from warmboot.hypervisors.firecracker.api import FirecrackerApi
from warmboot.hypervisors.firecracker.config import FirecrackerConfig
from warmboot.hypervisors.firecracker.layout import API_SOCKET, VMM_LOG, VSOCK_SOCKET
from warmboot.hypervisors.firecracker.pager import Pager
from warmboot.hypervisors.memory.frozen_pages import write_own_pages, write_pages_of
from warmboot.hypervisors.memory.own_pages import Mapping, private_mappings
from warmboot.hypervisors.process import VmmProcess
from warmboot.model.errors import HostError, HypervisorError, NotSupported, VmGone
from warmboot.model.runtime_snapshot import DIFFERENCE_FILE, MEMORY_FILE, STATE_FILE
from warmboot.model.vm import Disk, GuestAddress, VmHandle, VmSpec, VmStatus
from warmboot.system.concurrency import end, finish
from warmboot.system.files import unlink_all
from warmboot.system.on_failure import on_failure


class FirecrackerVm:
    """One VM. Made by ``Firecracker``. One with a ``pager`` dies with it."""

    def __init__(
        self,
        spec: VmSpec,
        config: FirecrackerConfig,
        process: VmmProcess,
        confinement: Confinement,
        pager: Pager | None = None,
    ) -> None:
        self.spec = spec
        self._config = config
        self._process = process
        self._confinement = confinement
        self._pager = pager
        self._dying = None if pager is None else asyncio.create_task(self._die_with(pager))
        self.api = FirecrackerApi(
            spec.id, spec.run_dir / API_SOCKET, process, config.request_timeout_s
        )

    @property
    def handle(self) -> VmHandle:
        return self._process.handle

    async def status(self) -> VmStatus:
        """``HypervisorError`` for a VMM whose guest was never started."""
        try:
            state = (await self.api.get("/"))["state"]
        except VmGone:
            return VmStatus.GONE
        if state not in ("Running", "Paused"):
            raise HypervisorError(f"{self.spec.id} is neither running nor paused", details=state)
        return VmStatus.RUNNING if state == "Running" else VmStatus.PAUSED

    async def pause(self) -> None:
        await self.api.patch("/vm", {"state": "Paused"})

    async def resume(self) -> None:
        await self.api.patch("/vm", {"state": "Resumed"})

    async def save(self) -> MachineSnapshot:
        folder = self.spec.template_dir
        if folder is None:
            raise HypervisorError(f"{self.spec.id} was not started to be saved")
        folder = folder.resolve()
        return await self._create(folder / MEMORY_FILE, folder / STATE_FILE)

    def about_to_freeze(self, overlay: Disk | None) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()  # there is nothing to be done before

    async def freeze(self, folder: Path) -> FrozenMachine:
        """Firecracker writes no state without memory. Of a VM whose RAM is a file's it is not used:
        what Firecracker takes for changed does not hold pages that were swapped out."""
        folder = folder.resolve()
        whole = folder / MEMORY_FILE
        target = folder / DIFFERENCE_FILE
        mappings = await asyncio.to_thread(self._mappings_of_file)
        machine = await self._create(whole, folder / STATE_FILE)
        try:
            if mappings:
                size = self.spec.shape.memory_mib << 20
                write = partial(write_own_pages, self.handle, mappings, size, target)
            else:
                write = partial(write_pages_of, whole, None, target)
            with on_failure(lambda: unlink_all(machine.state, target)):
                await finish(asyncio.to_thread(write))
        finally:
            whole.unlink(missing_ok=True)
        return FrozenMachine(target, machine.state, based=bool(mappings))

    async def lay_overlay(self, overlay: Disk) -> None:
        raise NotSupported(f"Firecracker takes raw disks only, and no overlay {overlay.path}")

    def _mappings_of_file(self) -> list[Mapping]:
        """Of its guest's RAM, where that is a file's; none where it is memory of no file."""
        try:
            found = private_mappings(self.handle.pid)
        except OSError as error:
            raise VmGone(f"VM {self.spec.id} is gone", details=str(error)) from error
        for mappings in found.values():
            if sum(one.end - one.start for one in mappings) == self.spec.shape.memory_mib << 20:
                return mappings
        return []

    async def _create(self, memory: Path, state: Path) -> MachineSnapshot:
        """A snapshot of Firecracker's own of the paused machine; no file is left if it fails."""
        if await self.status() is not VmStatus.PAUSED:
            raise HypervisorError(f"{self.spec.id} is not paused: pause it first")
        body = {
            "snapshot_type": "Full",
            "snapshot_path": str(state),
            "mem_file_path": str(memory),
        }
        with on_failure(lambda: unlink_all(memory, state)):
            # Not cut short: Firecracker would write them all the same, after they are removed.
            await finish(self.api.put("/snapshot/create", body, self._config.save_timeout_s))
        return MachineSnapshot(memory, state)

    async def kill(self) -> None:
        # Firecracker first: without its pager it could not go on to its end.
        await self._process.kill()
        await self._let_pager_go()
        if self._pager is not None:
            await self._pager.kill()
        await self.api.close()
        await self._confinement.release(self.spec.id)

    async def wait_gone(self) -> None:
        await self._process.wait()

    async def wait_stalled(self) -> None:
        """Never: Firecracker hands the error to the guest."""
        await asyncio.Event().wait()

    async def grow_disk(self, size_bytes: int) -> None:
        raise HypervisorError("disks of Firecracker's VMs keep their size")

    def end_cause(self) -> HostError | None:
        return None if self._pager is None else self._pager.damage

    async def detach(self) -> None:
        await self._let_pager_go()
        if self._pager is not None:
            await self._pager.close()
        await self.api.close()
        self._process.close()

    async def _die_with(self, pager: Pager) -> None:
        await pager.process.wait()
        await pager.cause()
        await self._process.kill()

    async def _let_pager_go(self) -> None:
        if self._dying is not None:
            await end(self._dying)

    def guest_address(self, port: int) -> GuestAddress:
        """Over its network if it has one, as the guest agent then listens there; else vsock."""
        nic = self.spec.nic
        if nic is not None:
            return GuestAddress(port=port, namespace=nic.namespace, ip=nic.guest_ip)
        return GuestAddress(port=port, vsock_socket=self.spec.run_dir / VSOCK_SOCKET)

    def log_tail(self) -> str:
        """The end of what Firecracker itself said (not the guest)."""
        return tail(self.spec.run_dir / VMM_LOG)
