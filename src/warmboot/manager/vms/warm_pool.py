"""The warm pool: VMs of the most recently used snapshot, restored and paused in advance.

    fill ─▶ slot, disk, VM restored, exercised, paused ─▶ ready ──take──▶ one warm boot owns it
                                                            └─discard──▶ gone

A container that comes gets one of them, lets it run and gives it its identity; what is dear after a
restore, and dearest under emulation, has been done while nobody waited. A boot that finds none
ready restores its own VM. VMs of the pool are in no table: those of a manager that was killed are
left-overs, which its next start removes.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from warmboot.host.agent import HostAgent
from warmboot.host.network import Slot
from warmboot.host.vm.vm_files import snapshot_disks
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.background import LONGEST_PAUSE_S, Failed, Work, one_round
from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import fit_of
from warmboot.model.vm import VmSpec, new_vm_id
from warmboot.store import Store
from warmboot.system.on_failure import on_failure

MOST = 4
SHARE_OF_OWN = 0.35
"""How much of its RAM a VM of the pool has for itself, seen for 768 MiB."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a warm boot of ``snapshot_id`` needs on the host but the order to restore."""

    snapshot_id: UUID
    spec: VmSpec
    slot: Slot | None


class WarmPool:
    """A pool of VMs, ``most`` at most; ``auto`` is what a quarter of the free memory
    holds, 4 at most.
    """

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        admission: BootAdmission,
        most: int | Literal["auto"],
        shape: Shape,
        failed: Failed,
    ) -> None:
        self._store = store
        self._host = host
        self._admission = admission
        self._shape = shape
        self._failed = failed
        self._ready: list[Prepared] = []
        self.most = 0
        self._setting = most
        self._changed = asyncio.Event()

    @property
    def ready(self) -> int:
        return len(self._ready)

    def take(self, snapshot_id: UUID) -> Prepared | None:
        """A VM of this snapshot, the caller's from now on: to be destroyed as any VM is.

        Whether there is one or not, the pool looks again afterwards what to have ready.
        """
        self._changed.set()
        for prepared in self._ready:
            if prepared.snapshot_id == snapshot_id:
                self._ready.remove(prepared)
                return prepared
        return None

    async def discard(self, prepared: Prepared) -> None:
        await self._host.vms.destroy(prepared.spec.id, prepared.slot)

    def on_event(self, event: Event) -> None:
        """An observer of the event log: another snapshot may be wanted."""
        if event.kind.startswith("runtime-snapshot."):
            self._changed.set()

    async def keep_filled(self) -> None:
        """Keep the pool filled until cancelled; it is emptied then."""
        self.most = await self._size()
        if self.most == 0:
            return
        try:
            while True:
                await self._admission.until_quiet()
                self._changed.clear()
                filled = await one_round(Work.WARM_POOL, self._fill(), self._failed)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if filled else LONGEST_PAUSE_S):
                        await self._changed.wait()
        finally:
            while self._ready:
                await self.discard(self._ready.pop())

    async def _fill(self) -> bool:
        """``True``: it did not fail."""
        wanted = await self._wanted()
        for prepared in [p for p in self._ready if wanted is None or p.snapshot_id != wanted.id]:
            self._ready.remove(prepared)
            await self.discard(prepared)
        while wanted is not None and len(self._ready) < self.most:
            if not self._admission.quiet:
                self._changed.set()
                break
            self._ready.append(await self._prepare(wanted))
        return True

    async def _size(self) -> int:
        if self._setting != "auto":
            return self._setting
        if not (await self._host.probe()).capabilities.lazy_memory:
            return 0  # each would have all of its memory for itself
        each_mib = self._shape.memory_mib * SHARE_OF_OWN
        return min(MOST, int(self._host.free_memory_mib() / 4 / each_mib))

    async def _wanted(self) -> RuntimeSnapshot | None:
        """The one used last of those that can be restored here, and are not put away compressed."""
        here = (await self._host.probe()).host
        fitting = [
            snapshot
            for snapshot in await self._store.snapshots.list()
            if snapshot.is_version
            and fit_of(snapshot, here).usable
            and not snapshot.metadata.get("compressed")
        ]
        return max(fitting, key=lambda s: s.last_used_at or s.created_at, default=None)

    async def _prepare(self, snapshot: RuntimeSnapshot) -> Prepared:
        image = await self._store.images.get(snapshot.runtime_image_id)
        path, vm_id = snapshot.snapshot_path, new_vm_id()
        await self._host.snapshots.check(path)
        slot = await self._host.vms.reserve_slot()
        async with on_failure(lambda: self._host.vms.destroy(vm_id, slot)):
            spec = await self._host.vms.make(
                vm_id, image, snapshot.shape, slot, snapshot_disks(path)
            )
            await self._host.vms.prewarm(spec, path)
        return Prepared(snapshot.id, spec, slot)
