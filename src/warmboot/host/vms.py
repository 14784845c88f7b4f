"""VMs on this machine, from the reservation to the end.

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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from warmboot.docker.pull import Progress, no_progress
from warmboot.host.folders import folder_server
from warmboot.host.guest import guest_pull
from warmboot.host.guest.guest_link import (
    AGENT_PORT,
    Claimed,
    GuestLink,
    Identity,
    Sent,
    nobody_asks,
)
from warmboot.host.host_config import HostConfig
from warmboot.host.network import Network, Slot
from warmboot.host.snapshots import moments
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.snapshots.stored_memory import with_machine
from warmboot.host.storage.storage import Storage, remove_folder
from warmboot.host.vm import freeze_vm, leftovers
from warmboot.host.vm.boot_logs import BootLogs
from warmboot.host.vm.disk_usage import disk_usage, frozen_disk_usage
from warmboot.host.vm.freeze_vm import FrozenVm
from warmboot.host.vm.kept_output import KeptOutput
from warmboot.host.vm.live_vm import LiveVm
from warmboot.host.vm.protected import NOTHING, Protected, slots_in_use
from warmboot.host.vm.unresponsive import UnresponsiveVms
from warmboot.host.vm.vm_files import DiskSource, VmFiles, disks_of
from warmboot.host.vm.vm_pauses import VmPauses
from warmboot.host.vm.vm_ports import VmPorts
from warmboot.hypervisors.base import Hypervisor, Vm
from warmboot.hypervisors.confinement import Confinement
from warmboot.hypervisors.process import come_first
from warmboot.model.conventions.engine_front import GuestEndpoint
from warmboot.model.errors import VmGone, VmUnresponsive
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.shapes import Shape
from warmboot.model.usage import DiskUsage, VmUsage
from warmboot.model.vm import VmHandle, VmRecord, VmSpec
from warmboot.system import usage
from warmboot.system.concurrency import some_at_once

log = structlog.get_logger(__name__)

PREWARM_TIMEOUT_S = 120.0
ADOPTED_AT_ONCE = 32  # each has seconds to answer, from its turn on


class Vms(VmPorts):
    """``start`` before use, ``stop`` after; VMs outlive it."""

    def __init__(
        self,
        config: HostConfig,
        hypervisor: Hypervisor,
        network: Network | None,
        snapshots: SnapshotFiles,
        storage: Storage,
        confinement: Confinement,
    ) -> None:
        super().__init__(config, network)
        self.root = config.root / "vms"
        self.boot_logs = BootLogs(config.root / "boot-logs", self.root)
        self.kept_output = KeptOutput(config.root / "kept-output")
        self._confinement = confinement
        self._hypervisor = hypervisor
        self._snapshots = snapshots
        self._storage = storage
        self._files = VmFiles(self.root, hypervisor, snapshots)
        self._machines: dict[str, LiveVm] = {}
        self._unresponsive = UnresponsiveVms(hypervisor, config.silent_after_s)
        self.pauses = VmPauses(self._machine)
        self._pooled, self._stalled = set[str](), set[str]()
        self._coming_first: set[asyncio.Task[None]] = set()
        self._protected = NOTHING

    async def start(self, records: Sequence[VmRecord], protected: Protected) -> list[str]:
        """Take over what an earlier manager left; returns the ids of VMs that are lost.

        One whose VMM is there and does not answer is kept: see ``unresponsive``. Everything else
        of ours that is not ``protected`` is removed: processes, namespaces, folders.
        """
        self._protected = protected
        known = protected.vm_ids | {record.id for record in records}
        await leftovers.remove(self.root, known)
        await self._confinement.start(known)
        found = await some_at_once(ADOPTED_AT_ONCE, self._adopt, records)
        adopted = [record for record, is_there in zip(records, found, strict=True) if is_there]
        if self._network is not None:
            await self._network.start(*slots_in_use(adopted, protected))
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
            await self._confinement.stop()
        if self._network is not None:
            await self._network.stop(keep=in_use)

    # -- before it runs ------------------------------------------------------------------------

    async def reserve_slot(self) -> Slot | None:
        """A network slot, where the hypervisor has networking."""
        return None if self._network is None else await self._network.acquire()

    async def release_slot(self, slot: Slot | None) -> None:
        if slot is not None and self._network is not None:
            await self._network.release(slot)

    async def make(
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
        await self._storage.ensure_room()
        return await self._files.make(vm_id, image, shape, slot, source, template_dir, background)

    # -- running -------------------------------------------------------------------------------

    async def boot(self, spec: VmSpec, token: str) -> VmHandle:
        """Start a VM from nothing."""
        return self._hold(await self._hypervisor.boot(spec), spec, token)

    async def restore(self, spec: VmSpec, snapshot: Path, token: str) -> VmHandle:
        """Start a VM from a snapshot folder; it runs on when this returns."""
        frozen_token = moments.read_token(snapshot)
        if spec.id in self._pooled:
            self._pooled.remove(spec.id)
            machine = self._machine(spec.id)
            come_first(machine.vm.handle)
            await machine.link.use_token(token)
            with contextlib.suppress(VmGone):  # it died since
                await machine.vm.resume()
                self._come_first(machine.vm.handle)
                return machine.vm.handle
            await self._machines.pop(spec.id).kill()
            # Its throw-away containers have written to it: it is no match for a clean memory.
            source = disks_of(snapshot, await self._snapshots.check(snapshot))
            await self._files.renew_disk(spec, source)
        vm = await with_machine(
            self._hypervisor,
            self._snapshots,
            self._storage.cache,
            snapshot,
            lambda machine: self._hypervisor.restore(spec, machine),
        )
        return self._hold(vm, spec, frozen_token or token)

    async def freeze_in_use(
        self, record: VmRecord, folder: Path, *, stays: bool = False
    ) -> FrozenVm:
        """Freeze a VM that somebody uses, and have it go on: see ``freeze_vm``."""
        machine, gid = self._machine(record.id), self._snapshots.gid
        self._snapshots.lend(folder, record.spec.uid)
        try:
            return await machine.freeze_in_use(record.spec, folder, gid, stays=stays)
        finally:
            self._snapshots.lend(folder, 0)

    async def go_on(self, record: VmRecord) -> None:
        """Have a VM run on whose freeze was broken off. Idempotent. ``VmGone``: its next life finds
        its disk all the same."""
        freeze_vm.settle(record.spec)
        await self._machine(record.id).go_on(record.spec)

    async def prewarm(self, spec: VmSpec, snapshot: Path) -> None:
        """Restore a VM that nobody waits for, run throw-away containers in it, and pause it.

        A ``restore`` of ``spec`` lets it run on; until then ``destroy`` ends it. It is nobody's:
        it has no identity and no record, and does not outlive the manager.
        """
        token = secrets.token_urlsafe(32)
        await self.restore(replace(spec, background=True), snapshot, token)
        identity = Identity("warmboot-pooled", secrets.token_hex(16), token)
        await self.claim(spec.id, identity, PREWARM_TIMEOUT_S)
        await self.wait_for_docker(spec.id, PREWARM_TIMEOUT_S)
        await self._machine(spec.id).prewarm()
        self._pooled.add(spec.id)

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
        claimed = await machine.while_alive(claim)
        if machine.link.token != identity.token:  # it was another's, as it was frozen in use
            await machine.link.use_token(identity.token)
        return claimed

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
        await self._machine(vm_id).look()

    def handles(self) -> list[VmHandle]:
        """Those of all VMMs that are there, be it without an answer."""
        silent = [one.process.handle for one in self._unresponsive.vms.values()]
        return [*(machine.vm.handle for machine in self._machines.values()), *silent]

    async def usage(self) -> Sequence[VmUsage]:
        """What the VMs use at the moment; some milliseconds each."""
        return await asyncio.to_thread(usage.of_vms, self.handles())

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
    def stalled(self) -> int:
        """How many wait for room in ``resume_stalled``."""
        return len(self._stalled)

    def link(self, vm_id: str) -> GuestLink:
        """The connection to a VM's guest; ``VmGone`` when there is no such VM."""
        return self._machine(vm_id).link

    async def hand_over(self, vm_id: str, labels: Sequence[str]) -> None:
        """Leave nothing of ours in a VM's Docker: it is a user's, and pulls from the mirror."""
        machine, mirror = self._machine(vm_id), self._config.registry_mirror
        await machine.while_alive(machine.link.hand_over(labels, mirror))

    async def lead_to_host(self, vm_id: str, slot: Slot | None, ports: Sequence[int]) -> None:
        """``open_host_ports``, and have the guest let its containers go there."""
        await self.open_host_ports(slot, ports)
        if ports:
            machine = self._machine(vm_id)
            await machine.while_alive(machine.link.let_reach_host(ports))

    async def grow_disk(self, vm_id: str, size_bytes: int) -> None:
        """Have its writable disk, and the file system on it, be so large, if they are smaller."""
        await self._machine(vm_id).grow_disk(size_bytes)

    async def disk_usage(self, record: VmRecord) -> DiskUsage:
        """What is used of its writable disk."""
        return await disk_usage(record, self._machines.get(record.id))

    async def frozen_disk_usage(self, folder: Path) -> DiskUsage:
        """What the disk of a moment takes, which is in its ``folder``."""
        return await frozen_disk_usage(folder)

    def endpoint(self, vm_id: str) -> GuestEndpoint:
        """The address and token by which other processes reach a VM's Docker. ``VmGone``."""
        machine = self._machine(vm_id)
        handle = machine.vm.handle
        return GuestEndpoint(
            machine.vm.guest_address(AGENT_PORT),
            machine.link.token,
            handle.pid,
            handle.start_time_ticks,
        )

    async def pull_image(
        self,
        vm_id: str,
        slot: Slot | None,
        reference: str,
        progress: Progress = no_progress,
        platform: str = "",
    ) -> None:
        """Pull an image into the VM; see ``guest_pull``."""
        link, config = self.link(vm_id), self._config
        silence_s, mirror = config.pull_silence_s, config.registry_mirror
        await guest_pull.pull_image(
            link, self._network, slot, reference, progress, silence_s, mirror, platform
        )

    # -- the end -------------------------------------------------------------------------------

    async def destroy(self, vm_id: str, slot: Slot | None, *, keep_folder: bool = False) -> None:
        """Kill the VM and give everything back. Idempotent; works for a VM that never came up."""
        machine = self._machines.pop(vm_id, None)
        self._pooled.discard(vm_id)
        folder = self.root / vm_id
        if machine is not None:
            await machine.kill()
        else:
            await self._unresponsive.kill(vm_id)
            await leftovers.kill_users_of(folder)
        self._unresponsive.forget(vm_id)
        await asyncio.to_thread(folder_server.end_all, folder)  # it ends by itself, and soon
        await self._confinement.release(vm_id)
        await self.release_slot(slot)
        if not keep_folder:
            await remove_folder(folder)

    # -- inside --------------------------------------------------------------------------------

    def _come_first(self, handle: VmHandle) -> None:
        """Its control group follows while it runs already: that takes some ten milliseconds."""
        task = asyncio.create_task(self._confinement.come_first(handle))
        self._coming_first.add(task)
        task.add_done_callback(self._coming_first.discard)

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
            await self._machine(record.id).look()
        return True
