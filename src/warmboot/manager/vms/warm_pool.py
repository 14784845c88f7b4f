"""The warm pool: VMs that are kept prepared, restored and paused in advance, by the demand.

    look ─▶ size (see pool_size) ─▶ slot, disk, VM restored, exercised, paused ─▶ ready
     ▲                                                                              │
     └─ a boot, a snapshot, time        one warm boot owns it ◀──take───────────────┤
                                        gone ◀──discard: not wanted, memory short───┘

A container that comes gets one of them, lets it run and gives it its identity; what is dear after a
restore, and dearest under emulation, has been done while nobody waited. A boot that finds none
ready restores its own VM. It is of snapshots that are nobody's, of any depth: an engine's own go on
with what ran in it, and that before somebody asked for it is too early.

It gives way first: what is admitted and finds too little memory has VMs of the pool ended. VMs of
the pool are in no table: those of a manager that was killed are left-overs, which its next start
removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.network import Slot
from warmboot.host.vm.vm_files import disks_of
from warmboot.manager.core.admission import BootAdmission
from warmboot.manager.core.background import LONGEST_PAUSE_S, Failed, Work, one_round
from warmboot.manager.vms.pool_size import (
    Bound,
    Poolable,
    PoolPolicy,
    PoolSize,
    bounds_of,
    size_pool,
)
from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.snapshot_fit import fit_of
from warmboot.model.usage import PooledSnapshot, PoolStatus
from warmboot.model.vm import VmSpec, new_vm_id
from warmboot.store import Store
from warmboot.system.concurrency import end, finish
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

SHARE_OF_OWN = 0.35
"""How much of its RAM a VM of the pool has for itself, seen for 768 MiB."""

LOOK_AGAIN_S = 15.0
"""Nothing tells that others use memory, or give it back, or that nobody has asked for long."""

GAVE_WAY_S = 60.0
"""How long it does not grow after it gave way: who had its memory comes to use it by and by."""

REMEMBERED = 1000
"""Boots of one snapshot; a pool is never as large."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """All that a warm boot of ``snapshot`` needs on the host but the order to restore."""

    snapshot: RuntimeSnapshot
    spec: VmSpec
    slot: Slot | None


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """What was set; ``auto`` bounds depend on the hypervisor."""

    min_vms: Bound = "auto"
    max_vms: Bound = "auto"
    window_s: float = 600.0
    memory_percent: int = 25


class WarmPool:
    """``keep_filled`` keeps it as large as it should be; ``take`` is for who boots."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        admission: BootAdmission,
        config: PoolConfig,
        failed: Failed,
    ) -> None:
        self._store = store
        self._host = host
        self._admission = admission
        self._config = config
        self._failed = failed
        self._policy = PoolPolicy(0, 0)
        self._share_of_own = 1.0
        self._boots: dict[UUID, deque[float]] = {}
        self._ready: list[Prepared] = []
        self._resting: dict[UUID, float] = {}
        self._making: asyncio.Task[None] | None = None
        self._making_of: RuntimeSnapshot | None = None
        self._known: Mapping[UUID, RuntimeSnapshot] = {}
        self._size = PoolSize({})
        self._gave_way_at = -GAVE_WAY_S
        self._giving_way = asyncio.Lock()
        self._hits = self._misses = self._evicted = 0
        self._changed = asyncio.Event()

    def status(self) -> PoolStatus:
        ready, wanted = Counter(one.snapshot.id for one in self._ready), self._size.wanted
        of = {one.snapshot.id: one.snapshot for one in self._ready} | dict(self._known)
        since = time.monotonic() - self._policy.window_s
        return PoolStatus(
            ready=len(self._ready),
            size=sum(wanted.values()),
            min=self._policy.min_vms,
            max=self._policy.max_vms,
            memory_short=self._size.memory_short,
            hits=self._hits,
            misses=self._misses,
            evicted=self._evicted,
            snapshots=tuple(
                PooledSnapshot(
                    snapshot_id,
                    of[snapshot_id].depth,
                    of[snapshot_id].image,
                    ready[snapshot_id],
                    wanted.get(snapshot_id, 0),
                    sum(at > since for at in self._boots.get(snapshot_id, ())),
                )
                for snapshot_id in dict.fromkeys((*wanted, *ready))
            ),
        )

    def take(self, snapshot: RuntimeSnapshot) -> Prepared | None:
        """A VM of this snapshot, the caller's from now on: to be destroyed as any VM is.

        Whether there is one or not, the pool looks again afterwards what to have ready.
        """
        if not snapshot.is_reproducible or self._policy.max_vms == 0:
            return None
        self._boots.setdefault(snapshot.id, deque(maxlen=REMEMBERED)).append(time.monotonic())
        self._resting.pop(snapshot.id, None)  # somebody asks: it is tried anew
        self._changed.set()
        for prepared in self._ready:
            if prepared.snapshot.id == snapshot.id:
                self._ready.remove(prepared)
                self._hits += 1
                return prepared
        self._misses += 1
        return None

    async def discard(self, prepared: Prepared) -> None:
        """To its end, also if that is cancelled: nobody else knows of the VM any more."""
        await finish(self._host.vms.destroy(prepared.spec.id, prepared.slot))

    async def give_way(self, needed_mib: int) -> None:
        """End VMs until so much memory is free, those that are asked for least first, and the one
        that is being made before them; none if not even all of them could have taken it.

        Who comes while that is done waits: what it frees may be enough for both.
        """

        def lacking_mib() -> int:
            return needed_mib - self._host.free_memory_mib()

        if lacking_mib() <= 0:
            return
        async with self._giving_way:
            shapes = [one.snapshot.shape for one in self._ready]
            if self._making_of is not None:
                shapes.append(self._making_of.shape)
            if 0 < lacking_mib() <= sum(shape.memory_mib for shape in shapes):
                await self._give_way(lacking_mib)

    async def _give_way(self, lacking_mib: Callable[[], int]) -> None:
        self._gave_way_at, before = time.monotonic(), self._evicted
        if (making := self._making) is not None:
            await end(making)
            self._evicted += making.cancelled()
        while lacking_mib() > 0 and self._ready:
            least = min(self._ready, key=lambda one: len(self._boots.get(one.snapshot.id, ())))
            self._ready.remove(least)
            self._evicted += 1
            await one_round(Work.WARM_POOL, self.discard(least), self._failed)
        log.info(f"{self._evicted - before} VMs of the warm pool gave way: memory is short")
        self._changed.set()

    def on_event(self, event: Event) -> None:
        """An observer of the event log: another snapshot may be wanted."""
        if event.kind.startswith("runtime-snapshot."):
            self._changed.set()

    async def keep_filled(self) -> None:
        """Keep the pool filled until cancelled; it is emptied then."""
        config, lazy = self._config, (await self._host.probe()).capabilities.lazy_memory
        least, most = bounds_of(config.min_vms, config.max_vms, lazy_memory=lazy)
        if most == 0:
            return
        self._policy = PoolPolicy(least, most, config.window_s, config.memory_percent / 100)
        self._share_of_own = SHARE_OF_OWN if lazy else 1.0
        try:
            while True:
                # Not longer: a pull may take hours, and what is not wanted takes memory and disk.
                await _for_a_while(self._admission.until_quiet())
                self._changed.clear()
                await one_round(Work.WARM_POOL, self._fill(), self._failed)
                await _for_a_while(self._changed.wait())
        finally:
            if self._making is not None:
                await end(self._making)
            while self._ready:
                await self.discard(self._ready.pop())

    async def _fill(self) -> None:
        """End what is not wanted, and make one that is, with a look before it."""
        size = await self._look()
        there: Counter[UUID] = Counter()
        for prepared in tuple(self._ready):
            if prepared not in self._ready:  # taken while another one was discarded
                continue
            there[prepared.snapshot.id] += 1
            if there[prepared.snapshot.id] > size.wanted.get(prepared.snapshot.id, 0):
                self._ready.remove(prepared)
                await self.discard(prepared)
        if (missing := self._missing(size)) is None:
            return
        self._changed.set()  # there may be another one
        if self._admission.quiet:
            await self._make_one(self._known[missing])

    async def _make_one(self, snapshot: RuntimeSnapshot) -> None:
        """One that cannot be made rests, and the others go on."""
        self._resting[snapshot.id] = time.monotonic() + LONGEST_PAUSE_S
        self._making, self._making_of = asyncio.create_task(self._make(snapshot)), snapshot
        try:
            await asyncio.wait({self._making})
            if not self._making.cancelled():  # it gave way
                self._making.result()
            self._resting.pop(snapshot.id, None)
        finally:
            await end(self._making)
            self._making = self._making_of = None

    def _missing(self, size: PoolSize) -> UUID | None:
        """That of which the fewest are there, in proportion to what is wanted."""
        ready, now = Counter(one.snapshot.id for one in self._ready), time.monotonic()
        self._resting = {one: until for one, until in self._resting.items() if until > now}
        shares = {
            one: ready[one] / wanted
            for one, wanted in size.wanted.items()
            if one not in self._resting
        }
        least = min(shares, key=lambda one: shares[one], default=None)
        return None if least is None or shares[least] >= 1 else least

    async def _look(self) -> PoolSize:
        """What is wanted now."""
        now = time.monotonic()
        since = now - self._policy.window_s
        self._boots = {one: at for one, at in self._boots.items() if at[-1] > since}
        snapshots = await self._poolable()
        ready = Counter(one.snapshot.id for one in self._ready)
        found = [
            Poolable(
                snapshot_id=one.id,
                boots=self._boots.get(one.id, ()),
                used_at=(one.last_used_at or one.created_at).timestamp(),
                each_mib=int(one.shape.memory_mib * self._share_of_own),
                memory_mib=one.shape.memory_mib,
                pooled=ready[one.id],
                idle=one.is_version and not one.metadata.get("compressed"),
            )
            for one in snapshots
        ]
        free_mib = self._host.free_memory_mib()
        may_grow = now - self._gave_way_at >= GAVE_WAY_S
        size = size_pool(found, self._policy, now, free_mib, may_grow=may_grow)
        if size.memory_short and not self._size.memory_short:
            log.warning(
                f"the warm pool is kept at {sum(size.wanted.values())} VMs: memory is short",
                details=f"{free_mib} MiB are free, of which it may take "
                f"{self._config.memory_percent} % (MANAGER_POOL_MEMORY_PERCENT)",
            )
        self._known, self._size = {one.id: one for one in snapshots}, size
        return size

    async def _poolable(self) -> Sequence[RuntimeSnapshot]:
        """Those that can be restored here, and are nobody's."""
        here = (await self._host.probe()).host
        return [
            snapshot
            for snapshot in await self._store.snapshots.list()
            if snapshot.is_reproducible and fit_of(snapshot, here).usable
        ]

    async def _make(self, snapshot: RuntimeSnapshot) -> None:
        self._ready.append(await self._prepare(snapshot))

    async def _prepare(self, snapshot: RuntimeSnapshot) -> Prepared:
        image = await self._store.images.get(snapshot.runtime_image_id)
        path, vm_id = snapshot.snapshot_path, new_vm_id()
        source = disks_of(path, await self._host.snapshots.check(path))
        slot = await self._host.vms.reserve_slot()
        async with on_failure(lambda: self._host.vms.destroy(vm_id, slot)):
            spec = await self._host.vms.make(vm_id, image, snapshot.shape, slot, source)
            await self._host.vms.prewarm(spec, path)
        return Prepared(snapshot, spec, slot)


async def _for_a_while(waited_for: Awaitable[object]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_AGAIN_S):
            await waited_for
