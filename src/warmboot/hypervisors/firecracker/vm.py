"""A running Firecracker, driven through its API."""

from __future__ import annotations

import asyncio
from pathlib import Path

from warmboot.hypervisors.base import MachineSnapshot
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.firecracker.api import FirecrackerApi
from warmboot.hypervisors.firecracker.config import FirecrackerConfig
from warmboot.hypervisors.firecracker.layout import API_SOCKET, VMM_LOG, VSOCK_SOCKET
from warmboot.hypervisors.firecracker.pager import Pager
from warmboot.hypervisors.process import VmmProcess
from warmboot.model.errors import HostError, HypervisorError, VmGone
from warmboot.model.runtime_snapshot import MEMORY_FILE, STATE_FILE
from warmboot.model.vm import GuestAddress, VmHandle, VmSpec, VmStatus
from warmboot.system.concurrency import end


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
        if await self.status() is not VmStatus.PAUSED:
            raise HypervisorError(f"{self.spec.id} is not paused: pause it before it is saved")
        folder = folder.resolve()
        snapshot = MachineSnapshot(memory=folder / MEMORY_FILE, state=folder / STATE_FILE)
        body = {
            "snapshot_type": "Full",
            "snapshot_path": str(snapshot.state),
            "mem_file_path": str(snapshot.memory),
        }
        try:
            await self.api.put("/snapshot/create", body, self._config.save_timeout_s)
        except BaseException:  # cancelled, too; raised again
            for path in (snapshot.memory, snapshot.state):
                path.unlink(missing_ok=True)
            raise
        return snapshot

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

    def log_tail(self, size: int = 2000) -> str:
        """The end of what Firecracker itself said (not the guest)."""
        return _tail(self.spec.run_dir / VMM_LOG, size)


def _tail(path: Path, size: int) -> str:
    try:
        return path.read_bytes()[-size:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
