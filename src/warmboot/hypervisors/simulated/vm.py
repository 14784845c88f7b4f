"""A running simulated VM, driven through its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from warmboot.hypervisors.base import FrozenMachine, MachineSnapshot
from warmboot.hypervisors.memory.frozen_pages import write_pages_of
from warmboot.hypervisors.process import VmmProcess
from warmboot.hypervisors.simulated.layout import CONTROL_SOCKET, VSOCK_SOCKET
from warmboot.model.errors import (
    HostError,
    HypervisorError,
    NotSupported,
    VmGone,
    VmUnresponsive,
)
from warmboot.model.runtime_snapshot import DIFFERENCE_FILE, MEMORY_FILE, STATE_FILE
from warmboot.model.vm import Disk, GuestAddress, VmHandle, VmSpec, VmStatus
from warmboot.system.concurrency import finish
from warmboot.system.files import unlink_all
from warmboot.system.on_failure import on_failure

ANSWER_TIMEOUT_S = 10.0


class SimulatedVm:
    """A running VM, made by ``Simulated``."""

    def __init__(self, spec: VmSpec, process: VmmProcess) -> None:
        self._spec = spec
        self._process = process

    @property
    def handle(self) -> VmHandle:
        return self._process.handle

    async def status(self) -> VmStatus:
        try:
            return VmStatus(await self._order("status"))
        except VmGone:
            return VmStatus.GONE

    async def pause(self) -> None:
        await self._order("pause")

    async def resume(self) -> None:
        await self._order("resume")

    async def save(self) -> MachineSnapshot:
        folder = self._spec.template_dir
        if folder is None:
            raise HypervisorError(
                f"VM {self._spec.id} was not started to be saved",
                resolution="give its spec a template_dir",
            )
        snapshot = MachineSnapshot(memory=folder / MEMORY_FILE, state=folder / STATE_FILE)
        await self._order("save", memory=str(snapshot.memory), state=str(snapshot.state))
        return snapshot

    def about_to_freeze(self, overlay: Disk | None) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()  # there is nothing to be done before

    async def freeze(self, folder: Path) -> FrozenMachine:
        whole, state, target = (
            folder / name for name in (MEMORY_FILE, STATE_FILE, DIFFERENCE_FILE)
        )
        try:
            with on_failure(lambda: unlink_all(state, target)):
                # Not cut short: it would write them all the same, after they are removed.
                saved = await finish(self._ask("save", memory=str(whole), state=str(state)))
                own = saved["own"]
                ranges = None if own is None else [(start, end) for start, end in own]
                await finish(asyncio.to_thread(write_pages_of, whole, ranges, target))
        finally:
            whole.unlink(missing_ok=True)
        return FrozenMachine(target, state, based=own is not None)

    async def lay_overlay(self, overlay: Disk) -> None:
        raise NotSupported(f"simulated VMs take raw disks only, and no overlay {overlay.path}")

    async def kill(self) -> None:
        await self._process.kill()

    async def wait_gone(self) -> None:
        await self._process.wait()

    async def wait_stalled(self) -> None:
        await self._order("wait-stalled", timeout_s=None)

    async def grow_disk(self, size_bytes: int) -> None:
        disk = next(disk for disk in self._spec.disks if not disk.read_only)
        await asyncio.to_thread(_grow, disk.path, size_bytes)

    def end_cause(self) -> HostError | None:
        return None

    async def detach(self) -> None:
        self._process.close()

    def guest_address(self, port: int) -> GuestAddress:
        return GuestAddress(port=port, vsock_socket=self._spec.run_dir / VSOCK_SOCKET)

    async def answers(self) -> None:
        """Return if the VMM answers; ``VmGone`` or ``VmUnresponsive`` if not."""
        await self._order("status")

    async def _order(
        self, what: str, timeout_s: float | None = ANSWER_TIMEOUT_S, **parameters: str
    ) -> str:
        """Have the VMM do something; returns the VM's status after it."""
        return str((await self._ask(what, timeout_s, **parameters))["status"])

    async def _ask(
        self, what: str, timeout_s: float | None = ANSWER_TIMEOUT_S, **parameters: str
    ) -> dict[str, Any]:
        line = json.dumps({"do": what, **parameters}).encode() + b"\n"
        path = str(self._spec.run_dir / CONTROL_SOCKET)
        if not self._process.alive:
            raise VmGone(f"VM {self._spec.id} is gone")
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    writer.write(line)
                    answer = await reader.readline()
                finally:
                    writer.close()
        except TimeoutError as error:
            raise VmUnresponsive(
                f"VM {self._spec.id} does not answer", details=f"{what} on {path}"
            ) from error
        except OSError as error:
            raise VmGone(f"VM {self._spec.id} is gone", details=str(error)) from error
        if not answer:
            raise VmGone(f"VM {self._spec.id} is gone", details=f"it died during {what}")
        result: dict[str, Any] = json.loads(answer)
        if "error" in result:
            raise HypervisorError(f"VM {self._spec.id}: {what} failed", details=result["error"])
        return result


def _grow(path: Path, size_bytes: int) -> None:
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) < size_bytes:
            file.truncate(size_bytes)
