"""A running QEMU, driven through its monitor (QMP)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from qemu.qmp import ConnectError, ExecInterruptedError, QMPClient
from qemu.qmp.protocol import StateError
from qemu.qmp.qmp_client import ExecuteError

from warmboot.hypervisors.base import FrozenMachine, MachineSnapshot
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.files import tail
from warmboot.hypervisors.memory.frozen_pages import write_own_pages
from warmboot.hypervisors.memory.own_pages import Mapping
from warmboot.hypervisors.process import VmmProcess
from warmboot.hypervisors.qemu.arguments import QMP_SOCKET, blockdev
from warmboot.hypervisors.qemu.config import QemuConfig
from warmboot.hypervisors.qemu.ram import ram_mapping
from warmboot.model.errors import (
    HostError,
    HypervisorError,
    NotSupported,
    VmGone,
    VmUnresponsive,
)
from warmboot.model.runtime_snapshot import DIFFERENCE_FILE, MEMORY_FILE, STATE_FILE
from warmboot.model.vm import Disk, DiskFormat, GuestAddress, VmHandle, VmSpec, VmStatus
from warmboot.system.concurrency import all_ended, finish, race
from warmboot.system.files import unlink_all
from warmboot.system.on_failure import on_failure

_PAUSED = {"paused", "prelaunch", "postmigrate", "finish-migrate", "suspended"}
_STALLED = "io-error"
"""By QEMU's default (werror=enospc) a write for which the host has no room stops the VM."""


_OVERLAY = "overlay-"
"""The nodes that are opened for a VM that runs begin with it."""


class _Opened(NamedTuple):
    """The node of an overlay that QEMU has open, and of the disk that it is to lie on."""

    node: str
    below: str


class QemuVm:
    """A running VM, made by ``Qemu``, with its monitor connected."""

    def __init__(
        self, spec: VmSpec, config: QemuConfig, process: VmmProcess, confinement: Confinement
    ) -> None:
        self.spec = spec
        self._config = config
        self._process = process
        self._confinement = confinement
        self._qmp = QMPClient(spec.id)
        self._qmp.logger.disabled = True  # it logs every lost connection as an error
        self._memory: tuple[bool, Mapping] | None = None
        self._opened: dict[Path, _Opened] = {}

    @property
    def handle(self) -> VmHandle:
        return self._process.handle

    async def connect(self) -> None:
        """Connect to the monitor; returns when QEMU has come up, ``VmGone`` if it did not."""
        connected, gone = await race(
            self._qmp.connect(str(self.spec.run_dir / QMP_SOCKET)),
            self._process.wait(),
            timeout_s=self._config.start_timeout_s,
        )
        if connected is not None and connected.exception() is None:
            return
        if connected is not None and gone is None:
            # The socket's other end closes an instant before the process is gone.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._process.wait()
        if not self._process.alive:
            raise VmGone(f"QEMU ended while {self.spec.id} came up", details=self.log_tail())
        raise HypervisorError(
            f"QEMU's monitor of {self.spec.id} did not answer",
            details=f"within {self._config.start_timeout_s:g} s",
        )

    async def status(self) -> VmStatus:
        if not self._process.alive:
            return VmStatus.GONE
        state = (await self._execute("query-status"))["status"]
        if state == _STALLED:
            return VmStatus.STALLED
        return VmStatus.PAUSED if state in _PAUSED else VmStatus.RUNNING

    async def pause(self) -> None:
        await self._execute("stop")

    async def resume(self) -> None:
        await self._execute("cont")

    async def load(self, state: Path) -> None:
        """Load a saved state, RAM left where it is; returns when the guest runs on."""
        await self._ignore_shared_memory()
        # Clones keep their addresses, each in a network of its own: there is nobody to tell.
        await self._execute("migrate-set-parameters", **{"announce-rounds": 0})
        with self._qmp.listener("MIGRATION") as events:
            await self._execute("migrate-incoming", uri=f"file:{state}")
            async with self._deadline("load the saved state"):
                await self._migrated(events)
        await self.resume()

    async def save(self) -> MachineSnapshot:
        folder = self.spec.template_dir
        if folder is None:
            raise HypervisorError(f"{self.spec.id} was not booted to be saved")
        await self._check_paused()
        await self._ignore_shared_memory()
        state = folder / STATE_FILE
        with self._qmp.listener("MIGRATION") as events:
            await self._execute("migrate", uri=f"file:{state}")
            async with self._deadline("save its state"):
                await self._migrated(events)
        return MachineSnapshot(memory=folder / MEMORY_FILE, state=state)

    @contextlib.asynccontextmanager
    async def about_to_freeze(self, overlay: Disk | None) -> AsyncIterator[None]:
        if self._memory is None:
            await self._drop_left()
        await self._find_memory()
        if overlay is None:
            yield
            return
        opened = self._opened[overlay.path] = await self._open(overlay)
        try:
            yield
        finally:
            if self._opened.pop(overlay.path, None) is not None:  # it was not laid
                await self._drop_node(opened.node)

    async def freeze(self, folder: Path) -> FrozenMachine:
        if self.spec.template_dir is not None:
            raise NotSupported(f"{self.spec.id} is a template: its memory is saved, not frozen")
        based, mapping = await self._find_memory()
        await self._check_paused()
        frozen = FrozenMachine(folder / DIFFERENCE_FILE, folder / STATE_FILE, based)
        memory_bytes = self.spec.shape.memory_mib << 20
        write = partial(write_own_pages, self.handle, [mapping], memory_bytes, frozen.difference)
        with on_failure(lambda: unlink_all(frozen.state, frozen.difference)):
            # Both at once, as saving devices leaves the memory as it is; and none is cut short:
            # QEMU would write its file all the same, after that is removed.
            await finish(all_ended(self._save_devices(frozen.state), asyncio.to_thread(write)))
        return frozen

    async def _find_memory(self) -> tuple[bool, Mapping]:
        """Whether it is a file's, and where it is: that stays so until QEMU's end."""
        if self._memory is None:
            kind = await self._execute("qom-get", path="/objects/ram", property="type")
            blocks = await self._execute("x-query-ramblock")
            mapping = ram_mapping(blocks["human-readable-text"], self.spec.shape.memory_mib << 20)
            self._memory = kind == "memory-backend-file", mapping
        return self._memory

    async def lay_overlay(self, overlay: Disk) -> None:
        await self._check_paused()
        opened = self._opened.pop(overlay.path, None) or await self._open(overlay)
        async with on_failure(lambda: self._drop_node(opened.node)):
            await self._execute("blockdev-snapshot", node=opened.below, overlay=opened.node)

    async def _open(self, overlay: Disk) -> _Opened:
        below = (await self._writable_disk())["node-name"]
        node = f"{_OVERLAY}{secrets.token_hex(6)}"
        async with on_failure(lambda: self._drop_node(node)):
            await self._execute(
                "blockdev-add",
                **blockdev(node, overlay.path, DiskFormat.QCOW2, read_only=False),
                backing=None,  # what it lies on is open already
            )
        return _Opened(node, below)

    async def _drop_left(self) -> None:
        """Those that a manager has opened that was killed before it laid them: while QEMU has one
        open to write, no fork can have it below its own disk."""
        for node in await self._execute("query-named-block-nodes", flat=True):
            if (name := node.get("node-name", "")).startswith(_OVERLAY):
                await self._drop_node(name)

    async def _drop_node(self, node: str) -> None:
        # Or there is none, or it has come to lie on the disk.
        with contextlib.suppress(HypervisorError):
            await self._execute("blockdev-del", **{"node-name": node})

    async def kill(self) -> None:
        await self._process.kill()
        await self._disconnect()
        await self._confinement.release(self.spec.id)

    async def wait_gone(self) -> None:
        await self._process.wait()

    async def wait_stalled(self) -> None:
        with self._qmp.listener("STOP") as stops:  # before the look: none falls in between
            while await self.status() is not VmStatus.STALLED:
                await stops.get()

    async def grow_disk(self, size_bytes: int) -> None:
        disk = await self._writable_disk()
        if disk["image"]["virtual-size"] < size_bytes:
            name = disk["node-name"]
            await self._execute("block_resize", **{"node-name": name, "size": size_bytes})

    def end_cause(self) -> HostError | None:
        return None

    async def detach(self) -> None:
        await self._disconnect()
        self._process.close()

    def guest_address(self, port: int) -> GuestAddress:
        nic = self.spec.nic
        if nic is None:
            raise HypervisorError(f"{self.spec.id} has no network interface")
        return GuestAddress(port=port, namespace=nic.namespace, ip=nic.guest_ip)

    def log_tail(self) -> str:
        """The end of what QEMU itself said (not the guest)."""
        path = self.spec.run_dir / "vmm.log"
        return tail(path)

    async def _migrated(self, events: Any) -> None:
        """Return when a migration, in or out, has completed."""
        outcome, _ = await race(_migration_outcome(events), self._process.wait())
        if outcome is None:
            raise VmGone(f"QEMU ended while {self.spec.id} came up", details=self.log_tail())
        if outcome.result() != "completed":
            raise await self._migration_error()

    async def _execute(self, command: str, **arguments: Any) -> Any:
        """QEMU's answer. ``VmUnresponsive`` if there is none in time: QEMU does what it was told
        later, in order, if it goes on."""
        limit_s = self._config.answer_timeout_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await self._qmp.execute(command, arguments or None)
        except TimeoutError as error:
            if not limit.expired():
                raise
            pid = self.handle.pid
            raise VmUnresponsive(
                f"QEMU does not answer for the VM {self.spec.id}",
                details=f"no answer to {command} within {limit_s:g} s; pid {pid}",
                resolution=f"see why it hangs: `cat /proc/{pid}/stack` (`kill -CONT {pid}`, if it "
                "was stopped)",
            ) from error
        except ExecuteError as error:
            raise HypervisorError(
                f"QEMU refused {command} for {self.spec.id}", details=str(error)
            ) from error
        except (ExecInterruptedError, ConnectError, StateError, EOFError, OSError) as error:
            raise VmGone(
                f"QEMU's monitor of {self.spec.id} is gone", details=self.log_tail()
            ) from error

    async def _check_paused(self) -> None:
        if await self.status() is not VmStatus.PAUSED:
            raise HypervisorError(f"{self.spec.id} runs: pause it first")

    async def _save_devices(self, state: Path) -> None:
        """The state of all devices and no RAM. The order is Xen's, and needs none."""
        async with self._deadline("save its state"):
            # Not ``live``: that would take its disks from the machine, which is to run on.
            await self._execute("xen-save-devices-state", filename=str(state), live=False)

    async def _ignore_shared_memory(self) -> None:
        await self._execute(
            "migrate-set-capabilities",
            capabilities=[
                {"capability": "x-ignore-shared", "state": True},
                {"capability": "events", "state": True},
            ],
        )

    async def _writable_disk(self) -> dict[str, Any]:
        """What QEMU says of the node that the guest writes to: the topmost overlay."""
        for device in await self._execute("query-block"):
            disk: dict[str, Any] | None = device.get("inserted")
            if disk is not None and not disk["ro"]:
                return disk
        raise HypervisorError(f"{self.spec.id} has no writable disk")

    async def _migration_error(self) -> HypervisorError:
        info = await self._execute("query-migrate")
        return HypervisorError(
            f"the state of {self.spec.id} could not be moved",
            details=str(info.get("error-desc", info)),
        )

    @contextlib.asynccontextmanager
    async def _deadline(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._config.migrate_timeout_s):
                yield
        except TimeoutError:
            raise HypervisorError(
                f"{self.spec.id} did not {what} within {self._config.migrate_timeout_s:g} s",
                details=self.log_tail(),
            ) from None

    async def _disconnect(self) -> None:
        # EOF is how the library tells that QEMU has hung up before us.
        with contextlib.suppress(EOFError, OSError, StateError):
            await self._qmp.disconnect()


async def _migration_outcome(events: Any) -> str:
    async for event in events:
        status = str(event["data"]["status"])
        if status in ("completed", "failed", "cancelled"):
            return status
    return "failed"
