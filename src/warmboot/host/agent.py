"""The host agent: the interface through which the manager uses VMs on this machine.

A VM's life on the host::

    reserve ──▶ (boot | restore) ──▶ claim ──▶ … in use … ──▶ destroy
       network slot      VMM process     identity,             process, links,
       folder, disk                      Docker answers        slot, folder

Every step is undone by ``destroy``, which needs only the VM's id and may be called at any time, any
number of times. Methods take and return plain frozen models.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog

from warmboot.docker.pull import Progress, no_progress
from warmboot.host.guest import guest_pull
from warmboot.host.guest.guest_link import Claimed, GuestLink, Identity, Sent, nobody_asks
from warmboot.host.host_config import HostConfig
from warmboot.host.network import Network, Repair, Slot
from warmboot.host.snapshots import stored_memory
from warmboot.host.snapshots.memory_cache import MemoryCache
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.storage.storage import Storage, remove_folder
from warmboot.host.vm import leftovers
from warmboot.host.vm.boot_logs import BootLogs
from warmboot.host.vm.live_vm import LiveVm
from warmboot.host.vm.protected import NOTHING, Protected, slots_in_use
from warmboot.host.vm.unresponsive import UnresponsiveVms
from warmboot.host.vm.vm_files import VMM_GID, DiskSource, VmFiles, snapshot_disks
from warmboot.hypervisors.base import Hypervisor, MachineSnapshot, Probe, Vm
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.process import come_first
from warmboot.model.container import PortMapping
from warmboot.model.errors import HostError, VmGone, VmUnresponsive
from warmboot.model.runtime_image import RuntimeImage, RuntimeImageManifest
from warmboot.model.shapes import Capacity, Shape
from warmboot.model.usage import StorageUsage, VmUsage
from warmboot.model.vm import VmHandle, VmRecord, VmSpec
from warmboot.system import usage

T = TypeVar("T")

log = structlog.get_logger(__name__)

PREWARM_TIMEOUT_S = 120.0


class HostAgent:
    """One machine's VMs. ``start`` before use, ``stop`` after; VMs outlive it."""

    def __init__(
        self,
        config: HostConfig,
        hypervisor: Hypervisor,
        network: Network | None,
        files: SnapshotFiles,
        confinement: Confinement | None = None,
    ) -> None:
        self.config = config
        self.confinement = confinement or Confinement()
        self.hypervisor = hypervisor
        self.network = network
        self.files = files
        self.cache = MemoryCache(
            config.root / "cache" / "memory", VMM_GID, config.memory_cache_bytes, self._handles
        )
        self.boot_logs = BootLogs(config.root / "boot-logs", self.vms_root)
        self._storage = Storage(config.root, config.disk_floor_bytes, self.cache)
        self._vm_files = VmFiles(self.vms_root, hypervisor, files)
        self._machines: dict[str, LiveVm] = {}
        self._unresponsive = UnresponsiveVms(hypervisor, config.silent_after_s)
        self._standing_by: set[str] = set()
        self._stalled: set[str] = set()
        self._coming_first: set[asyncio.Task[None]] = set()
        self._protected = NOTHING

    @property
    def vms_root(self) -> Path:
        return self.config.root / "vms"

    async def probe(self) -> Probe:
        return await self.hypervisor.probe()

    async def start(self, records: Sequence[VmRecord], protected: Protected = NOTHING) -> list[str]:
        """Take over what an earlier manager left; returns the ids of VMs that are lost.

        One whose VMM is there and does not answer is kept: see ``unresponsive``. Everything else
        of ours that is not ``protected`` is removed: processes, namespaces, folders.
        """
        self._protected = protected
        await self._storage.make_folders(self.vms_root, self.files.root)
        await self.cache.tidy()
        known = protected.vm_ids | {record.id for record in records}
        await leftovers.remove(self.vms_root, known)
        await self.confinement.start(known)
        found = await asyncio.gather(*(self._adopt(record) for record in records))
        adopted = [record for record, is_there in zip(records, found, strict=True) if is_there]
        if self.network is not None:
            await self.network.start(*slots_in_use(adopted, protected))
        return [record.id for record in records if record not in adopted]

    async def stop(self) -> None:
        """Let go of everything; the VMs run on. Without VMs nothing of ours stays on the host."""
        in_use = bool(self._machines or self._unresponsive.vms or self._protected.any)
        for machine in self._machines.values():
            await machine.let_go()
        self._machines.clear()
        self._unresponsive.let_go()
        await asyncio.gather(*self._coming_first)
        if not in_use:
            await self.confinement.stop()
        if self.network is not None:
            await self.network.stop(keep=in_use)

    # -- files ---------------------------------------------------------------------------------

    async def import_image(
        self, path: Path | None, kernel: Path | None, rootfs: Path | None, initrd: Path | None
    ) -> tuple[Path, RuntimeImageManifest]:
        """Take a runtime image into the storage; where it is now, and its manifest."""
        return await self._storage.import_image(path, kernel, rootfs, initrd)

    async def renew_agent(self, image: Path) -> tuple[Path, RuntimeImageManifest]:
        """Store the image folder once more, with the guest agent that is shipped here in it."""
        return await self._storage.renew_agent(image)

    async def check_image(self, image: RuntimeImage, *, thorough: bool = False) -> None:
        """``ImageDamaged`` if its files are not what they were when it was registered."""
        await self._storage.check_image(image, thorough=thorough)

    async def suspect_image(self, image: RuntimeImage) -> None:
        """What is made of it was found damaged: its next check takes all sums."""
        await self._storage.suspect_image(image)

    async def remove_image_folder(self, folder: Path) -> None:
        await remove_folder(folder)

    # -- before it runs ------------------------------------------------------------------------

    async def reserve_slot(self) -> Slot | None:
        """A network slot, where the hypervisor has networking."""
        return None if self.network is None else await self.network.acquire()

    async def release_slot(self, slot: Slot | None) -> None:
        if slot is not None and self.network is not None:
            await self.network.release(slot)

    async def ensure_room(self, needed_bytes: int = 0) -> None:
        """``DiskFull`` if ``needed_bytes`` would leave less than the floor; caches shrink first."""
        await self._storage.ensure_room(needed_bytes)

    def room_bytes(self) -> int:
        """What is free above the floor; below zero when it is reached."""
        return self._storage.room_bytes()

    def check_room(self, needed_bytes: int = 0) -> None:
        """``DiskFull`` when ``needed_bytes`` would leave less room than the floor."""
        self._storage.check_room(needed_bytes)

    async def make_vm(
        self,
        vm_id: str,
        image: RuntimeImage,
        shape: Shape,
        slot: Slot | None,
        source: DiskSource,
        template_dir: Path | None = None,
        *,
        background: bool = False,
    ) -> VmSpec:
        """The VM's folder and disk. A template's writable disk is ``disk.ext4`` in its folder."""
        await self.ensure_room()
        return await self._vm_files.make(
            vm_id, image, shape, slot, source, template_dir, background
        )

    # -- running -------------------------------------------------------------------------------

    async def boot(self, spec: VmSpec, token: str) -> VmHandle:
        """Start a VM from nothing."""
        return self._hold(await self.hypervisor.boot(spec), spec, token)

    async def restore(self, spec: VmSpec, snapshot: Path, token: str) -> VmHandle:
        """Start a VM from a snapshot folder; it runs on when this returns."""
        if spec.id in self._standing_by:
            self._standing_by.remove(spec.id)
            machine = self._machine(spec.id)
            come_first(machine.vm.handle)
            await machine.link.use_token(token)
            with contextlib.suppress(VmGone):  # it died since
                await machine.vm.resume()
                self._come_first(machine.vm.handle)
                return machine.vm.handle
            await self._machines.pop(spec.id).kill()
            # Its throw-away containers have written to it: it is no match for a clean memory.
            await self._vm_files.renew_disk(spec, snapshot_disks(snapshot))
        vm = await self._with_machine(snapshot, lambda m: self.hypervisor.restore(spec, m))
        return self._hold(vm, spec, token)

    async def prewarm(self, spec: VmSpec, snapshot: Path) -> None:
        """Restore a VM that nobody waits for, run throw-away containers in it, and pause it.

        A ``restore`` of ``spec`` lets it run on; until then ``destroy`` ends it. It is nobody's:
        it has no identity and no record, and does not outlive the manager.
        """
        token = secrets.token_urlsafe(32)
        await self.restore(replace(spec, background=True), snapshot, token)
        identity = Identity("warmboot-standby", secrets.token_hex(16), token)
        await self.claim(spec.id, identity, PREWARM_TIMEOUT_S)
        await self.wait_for_docker(spec.id, PREWARM_TIMEOUT_S)
        await self._machine(spec.id).prewarm()
        self._standing_by.add(spec.id)

    async def claim(
        self,
        vm_id: str,
        identity: Identity,
        timeout_s: float,
        docker_wait_s: float = 0.0,
        on_sent: Sent = nobody_asks,
    ) -> Claimed:
        """Make the guest its own self; ``VmGone`` as soon as its VMM is no more."""
        machine = self._machine(vm_id)
        claim = machine.link.claim(identity, timeout_s, docker_wait_s, on_sent)
        return await machine.while_alive(claim)

    async def wait_for_docker(self, vm_id: str, timeout_s: float) -> None:
        machine = self._machine(vm_id)
        await machine.while_alive(machine.link.wait_for_docker(timeout_s))

    async def freeze(self, vm_id: str) -> None:
        """Warm the guest up, pause it and write it into its template folder; it stays paused."""
        machine = self._machine(vm_id)
        await machine.freeze()
        await machine.vm.save()

    async def is_alive(self, vm_id: str) -> bool:
        """Whether its VMM is there."""
        machine = self._machines.get(vm_id)
        if machine is None or self.unresponsive(vm_id) is not None:
            return self._unresponsive.is_there(vm_id)
        return await machine.is_alive()

    def unresponsive(self, vm_id: str | None) -> VmUnresponsive | None:
        """Why a VM that is there cannot be asked anything; ``until_answers`` goes on asking it."""
        return self._unresponsive.why(vm_id)

    async def wait_silent(self, vm_id: str) -> None:
        """Return when a VM has given no answer for long: it is unresponsive then. ``VmGone``."""
        await self._unresponsive.until_silent(vm_id, self._machine(vm_id))

    async def until_answers(self, vm_id: str) -> None:
        """Return when an unresponsive VM answers: it is one as any other then. ``VmGone``."""
        if (machine := self._machines.get(vm_id)) is not None:
            await self._unresponsive.until_heard(vm_id, machine)
            return
        record, vm = await self._unresponsive.until_answers(vm_id)
        self._hold(vm, record.spec, record.token)

    async def vm_usage(self) -> Sequence[VmUsage]:
        """What the VMs use at the moment; some milliseconds each."""
        return await asyncio.to_thread(usage.of_vms, self._handles())

    def capacity(self) -> Capacity:
        """The processors and the memory of this machine."""
        return usage.capacity()

    def free_memory_mib(self) -> int:
        return usage.free_memory_mib()

    def storage_usage(self) -> StorageUsage:
        return self._storage.usage()

    async def wait_gone(self, vm_id: str) -> None:
        await self._machine(vm_id).vm.wait_gone()

    async def wait_stalled(self, vm_id: str) -> None:
        """Return when a VM stands still because the disk is full; ``VmGone`` when its VMM ends."""
        await self._machine(vm_id).wait_stalled()

    async def resume_stalled(self, vm_id: str) -> None:
        """Make room where that can be done, wait for it otherwise; return when the VM runs on."""
        self._stalled.add(vm_id)
        try:
            await self._machine(vm_id).resume_stalled(self._storage.make_room)
        finally:
            self._stalled.remove(vm_id)

    @property
    def stalled_vms(self) -> int:
        """How many wait for room in ``resume_stalled``."""
        return len(self._stalled)

    def link(self, vm_id: str) -> GuestLink:
        """The connection to a VM's guest; ``VmGone`` when there is no such VM."""
        return self._machine(vm_id).link

    async def publish(
        self, slot: Slot | None, ports: Sequence[PortMapping]
    ) -> tuple[PortMapping, ...]:
        """Forward host ports to the VM; the mappings with their real host ports."""
        if not ports:
            return ()
        if slot is None or self.network is None:
            raise HostError(
                "ports cannot be published: this hypervisor has no network",
                resolution="leave out the ports, or use QEMU or Firecracker",
            )
        return tuple([await self.network.publish(slot, mapping) for mapping in ports])

    async def republish(self, slot: Slot | None, ports: Sequence[PortMapping]) -> None:
        """Hold the ports of an adopted VM again."""
        if slot is not None and self.network is not None:
            await self.network.republish(slot, ports)

    async def repaired(self) -> Sequence[Repair]:
        """Wait until network rules were changed by somebody else, and put back."""
        if self.network is None:
            await asyncio.Event().wait()
            return ()
        return await self.network.repaired()

    async def pull_image(
        self, vm_id: str, slot: Slot | None, reference: str, progress: Progress = no_progress
    ) -> None:
        """Pull an image into the VM; see ``guest_pull``."""
        silence_s = self.config.pull_silence_s
        link = self.link(vm_id)
        await guest_pull.pull_image(link, self.network, slot, reference, progress, silence_s)

    # -- the end -------------------------------------------------------------------------------

    async def destroy(self, vm_id: str, slot: Slot | None, *, keep_folder: bool = False) -> None:
        """Kill the VM and give everything back. Idempotent; works for a VM that never came up."""
        machine = self._machines.pop(vm_id, None)
        self._standing_by.discard(vm_id)
        folder = self.vms_root / vm_id
        if machine is not None:
            await machine.kill()
        else:
            await self._unresponsive.kill(vm_id)
            await leftovers.kill_users_of(folder)
        self._unresponsive.forget(vm_id)
        await self.confinement.release(vm_id)
        await self.release_slot(slot)
        if not keep_folder:
            await remove_folder(folder)

    # -- inside --------------------------------------------------------------------------------

    async def _with_machine(
        self, snapshot: Path, open_it: Callable[[MachineSnapshot], Awaitable[T]]
    ) -> T:
        return await stored_memory.with_machine(
            self.hypervisor, self.files, self.cache, snapshot, open_it
        )

    def _come_first(self, handle: VmHandle) -> None:
        """Its control group follows while it runs already: that takes some ten milliseconds."""
        task = asyncio.create_task(self.confinement.come_first(handle))
        self._coming_first.add(task)
        task.add_done_callback(self._coming_first.discard)

    def _handles(self) -> list[VmHandle]:
        silent = [one.process.handle for one in self._unresponsive.vms.values()]
        return [*(machine.vm.handle for machine in self._machines.values()), *silent]

    def _hold(self, vm: Vm, spec: VmSpec, token: str) -> VmHandle:
        self._machines[spec.id] = LiveVm.of(vm, spec.id, token)
        return vm.handle

    def _machine(self, vm_id: str) -> LiveVm:
        try:
            return self._machines[vm_id]
        except KeyError:
            raise self.unresponsive(vm_id) or VmGone(f"there is no VM {vm_id} here") from None

    async def _adopt(self, record: VmRecord) -> bool:
        """Whether it is there, be it without an answer."""
        if record.handle is None:
            return False
        try:
            vm = await self._unresponsive.adopt(record)
        except VmGone as error:
            log.warning("a VM is gone", vm=record.id, error=str(error))
            return False
        if vm is not None:
            self._hold(vm, record.spec, record.token)
        return True
