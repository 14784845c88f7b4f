"""Collects garbage: removes what ``choose_garbage`` selects.

    look ─▶ retire ─▶ released ─▶ leftovers ─▶ caches
    what    unused    files and   what is      down to
    may go  → deleted rows gone   nobody's     the budget

Nothing is ever undone: each thing goes whole or stays, and what a killed manager did not come to is
found by the next collection. A snapshot is marked deleted by a guarded update, so a boot that
leases it at the same moment either has it or gets another; its files go only when no lease is left,
and then none can come. What lies about is asked for its owner again right before it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog

from warmboot.criu.containerd import RestoreCopies
from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.unreadable_owners import Of, unreadable_owners
from warmboot.manager.garbage.checkpoint_garbage import CheckpointGarbage, SeenCheckpoints
from warmboot.manager.garbage.choose_garbage import (
    Limits,
    Seen,
    active_count,
    choose_garbage,
    image_count,
)
from warmboot.model.errors import InUse
from warmboot.model.garbage import Cached, Garbage, Kind, Why
from warmboot.model.garbage import Collection as Collected
from warmboot.model.owned_ids import NO_IDS
from warmboot.model.runtime_snapshot import DISK_BASE, Depth, RuntimeSnapshot, SnapshotState
from warmboot.store import Store
from warmboot.system.disks import free_bytes

log = structlog.get_logger(__name__)

SUBJECT = "garbage"


class CollectGarbage:
    """Implements ``ports.Garbage``. ``busy`` tells which snapshots are just being worked on.

    ``images`` is held while image folders are removed: whoever registers one holds it too.
    ``restores`` knows what restores of workers have left on the engine's machine, ``checkpoints``
    what there is of workers' checkpoints.
    """

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        limits: Limits,
        images: asyncio.Lock,
        busy: Callable[[], Collection[UUID]] = frozenset,
        restores: RestoreCopies | None = None,
        checkpoints: CheckpointGarbage | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._scan = host.storage.scan
        self._events = events
        self._limits = limits
        self._images = images
        self._busy = busy
        self._restores = restores
        self._checkpoints = checkpoints
        self._one_at_a_time = asyncio.Lock()
        self._files = asyncio.Lock()

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """Remove all that may go, or only say what that is."""
        if dry_run:
            chosen, _ = await self._choose(self._limits)
            return Collected(True, chosen)
        started = time.monotonic()
        async with self._one_at_a_time:
            chosen, seen = await self._choose(self._limits)
            gone = [
                *await self._snapshots(chosen, seen),
                *await self._leftovers(chosen, seen),
                *await self._caches(chosen, seen),
            ]
        kept = tuple(one for one in chosen if one not in gone)
        done = Collected(False, tuple(gone), kept, round(time.monotonic() - started, 3))
        log.info(f"Collected {len(done.removed)} things, {done.freed_bytes >> 20} MiB")
        await self._events.emit(
            "garbage.collected",
            SUBJECT,
            removed=len(done.removed),
            kept=len(done.kept),
            freed_bytes=done.freed_bytes,
            reasons=done.by_reason,
            seconds=done.seconds,
        )
        return done

    async def collect_released(self) -> list[UUID]:
        """Remove every deleted snapshot that is not leased, files first, then the row; which."""
        async with self._files:
            gone: list[UUID] = []
            for snapshot in await self._deleted():
                if await self._give_back(snapshot):
                    gone.append(snapshot.id)
            if gone:
                await self._evict_unpacked_of_nobody()
            return gone

    async def _deleted(self) -> list[RuntimeSnapshot]:
        """What lies on others before those."""
        found = await self._store.snapshots.list(include_deleted=True)
        deleted = [one for one in found if one.state is SnapshotState.DELETED]
        return sorted(deleted, key=lambda one: one.is_version)

    async def _evict_unpacked_of_nobody(self) -> None:
        """What was unpacked of a snapshot that is gone is of no use any more."""
        known = {str(s.id) for s in await self._store.snapshots.list()}
        owners = (await unreadable_owners(self._store))[Of.SNAPSHOTS] | known
        await self._host.storage.cache.evict(sys.maxsize, known=_uuids(owners))

    async def make_room(self, depth: Depth = Depth.RUNTIME) -> None:
        """Have the least used snapshot go if a further one would be too many.

        Nothing goes where that would not be enough.
        """
        images = depth is Depth.IMAGE
        limits = replace(
            self._limits, unused_after=None, room_for=not images, room_for_images=images
        )
        chosen, seen = await self._choose(limits)
        ids = {s.id for s in seen.snapshots if s.depth is depth}
        over = [one for one in chosen if one.why is Why.OVER_LIMIT and one.snapshot_id in ids]
        count, most = active_count(seen.snapshots), limits.max_active
        if images:
            count, most = image_count(seen.snapshots), limits.max_images
        if not over or count - len(over) >= most:
            return
        for one in over:
            await self._retire(one, seen)
        await self.collect_released()

    async def keep_to_image_budget(self) -> None:
        """Have those of the depth ``image`` go that are over their budget, least used first."""
        chosen, seen = await self._choose(replace(self._limits, unused_after=None))
        for one in chosen:
            if one.kind is Kind.SNAPSHOT and one.why is Why.OVER_BUDGET:
                await self._retire(one, seen)

    async def drop_image_folder(self, folder: Path) -> None:
        """Remove an image's folder unless an image has it or a VM needs it.

        The caller holds ``images``, or is the only one.
        """
        if folder.name not in (await self._known())[Kind.IMAGE_FOLDER]:
            await self._host.images.remove_folder(folder)

    async def sweep(self) -> None:
        """Remove, before the first request, all that an earlier manager has left."""
        entries = await self._scan.run()
        known = await self._known()
        for one in entries:
            unowned = one.owner not in known.get(one.kind, ())
            if unowned and one.kind is not Kind.ARCHIVE:
                await self._scan.remove(one)
        await self._evict_unpacked_of_nobody()

    # -- looking -------------------------------------------------------------------------------

    async def _choose(self, limits: Limits) -> tuple[tuple[Garbage, ...], Seen]:
        now = datetime.now(UTC)
        entries = await self._scan.run()  # first: see ``disk_scan``
        if self._restores is not None:
            entries += await asyncio.to_thread(self._restores.find)
        checkpoints = SeenCheckpoints()
        if self._checkpoints is not None:
            checkpoints = await self._checkpoints.look()
        entries += checkpoints.entries
        cached = await self._host.storage.cache.entries()
        snapshots = await self._store.snapshots.list(include_deleted=True)
        owned = (await unreadable_owners(self._store))[Of.SNAPSHOTS]
        leases = self._store.snapshots.leases
        leased = [s.id for s in snapshots if str(s.id) in owned or await leases(s.id)]
        seen = Seen(
            snapshots=snapshots,
            leased=frozenset(leased),
            busy=frozenset(self._busy()),
            entries=entries,
            known={**await self._known(), Kind.CHECKPOINT_FOLDER: checkpoints.known},
            sizes={o.owner: o.size_bytes for o in entries if o.kind is Kind.SNAPSHOT_FOLDER},
            caches=[
                Cached(e.path, e.size_bytes, e.last_used, e.in_use, str(e.snapshot_id))
                for e in cached
            ],
            checkpoints=checkpoints.kept,
            free_bytes=free_bytes(self._host.storage.root),
        )
        return choose_garbage(seen, limits, now), seen

    async def _known(self) -> dict[Kind, Collection[str]]:
        """The owners of things on the disk: a row, or an operation that is under way."""
        operations = await self._store.operations.list()
        snapshots = await self._store.snapshots.list(include_deleted=True)
        images = await self._store.images.list()
        containers = await self._store.containers.list()
        records = await self._store.vms.list()
        owned = await unreadable_owners(self._store)
        snapshot_ids = owned[Of.SNAPSHOTS]
        vms = {record.id for record in records}
        needed = {path.parent.name for record in records for path in record.spec.files}
        ids = {str(snapshot.id) for snapshot in snapshots}
        creating = [s for s in snapshots if s.state is SnapshotState.CREATING]
        return {
            Kind.SNAPSHOT_FOLDER: snapshot_ids | ids,
            Kind.HALF_BUILT: snapshot_ids | {str(snapshot.id) for snapshot in creating},
            Kind.CACHE: snapshot_ids
            | {str(s.id) for s in snapshots if s.state is not SnapshotState.DELETED},
            # What an image had before its agent was renewed may be under a VM's disk.
            Kind.IMAGE_FOLDER: owned[Of.IMAGE_FOLDERS]
            | {image.path.name for image in images}
            | {Path(base).parent.name for s in snapshots if (base := s.metadata.get(DISK_BASE))}
            | needed,
            Kind.EMPTY_FOLDER: {str(image.id) for image in images},
            Kind.VM_FOLDER: owned[Of.VMS]
            | vms
            | {vm_id for operation in operations for vm_id in operation.vm_ids},
            Kind.ARCHIVE: owned[Of.ARCHIVES]
            | {c.spec.archive for c in containers if c.spec.archive},
        }

    # -- removing; each returns what is gone ---------------------------------------------------

    async def _snapshots(self, chosen: Collection[Garbage], seen: Seen) -> list[Garbage]:
        for one in chosen:
            retired = one.why in (Why.UNUSED, Why.OVER_LIMIT, Why.OVER_BUDGET)
            if one.kind is Kind.SNAPSHOT and retired:
                await self._retire(one, seen)
        gone = set(await self.collect_released())
        return [
            one
            for one in chosen
            if one.kind is Kind.SNAPSHOT
            and (one.snapshot_id in gone or (one.path is not None and not one.path.exists()))
        ]

    async def _leftovers(self, chosen: Collection[Garbage], seen: Seen) -> list[Garbage]:
        others = [one for one in chosen if one.kind not in (Kind.SNAPSHOT, Kind.CACHE)]
        return [one for one in others if await self._remove(one, seen)]

    async def _caches(self, chosen: Collection[Garbage], seen: Seen) -> list[Garbage]:
        """By the cache's own rule."""
        going = {one.path: one for one in chosen if one.kind is Kind.CACHE}
        if not going:
            return []
        stay = sum(one.size_bytes for one in seen.caches if one.path not in going)
        gone = await self._host.storage.cache.evict(stay, known=_uuids(seen.known[Kind.CACHE]))
        return [going[entry.path] for entry in gone if entry.path in going]

    async def _retire(self, one: Garbage, seen: Seen) -> None:
        snapshot = next(s for s in seen.snapshots if s.id == one.snapshot_id)
        if await self._store.snapshots.retire(snapshot):
            log.info(f"Runtime snapshot {snapshot.id} goes: {one.why.phrase}")
            await self._events.emit("runtime-snapshot.deleted", snapshot.id, why=one.why)

    async def _is_held(self, snapshot: RuntimeSnapshot) -> bool:
        """By a lease, or perhaps by what cannot be read."""
        if await self._store.snapshots.leases(snapshot.id):
            return True
        return str(snapshot.id) in (await unreadable_owners(self._store))[Of.SNAPSHOTS]

    async def _give_back(self, snapshot: RuntimeSnapshot) -> bool:
        if await self._is_held(snapshot):
            return False  # nobody else can lease it any more: it is deleted
        try:
            await self._host.snapshots.discard(snapshot.runtime_image_id, snapshot.id)
            await self._store.snapshots.release(str(snapshot.id))  # what it lay on
            await self._store.snapshots.purge(snapshot.id)
        except InUse:  # referenced otherwise; the next round sees to it
            return False
        except OSError as error:  # the row stays, so the next round tries again
            log.error("a deleted snapshot's files stay", of=str(snapshot.id), error=str(error))
            return False
        return True

    async def _remove(self, one: Garbage, seen: Seen) -> bool:
        """Whether it is gone. It is asked once more whether it is anybody's."""
        if one.kind is Kind.CHECKPOINT and self._checkpoints is not None:
            return await self._checkpoints.remove(one)
        found = next(entry for entry in seen.entries if entry.path == one.path)
        if one.kind is Kind.RESTORE_COPY and self._restores is not None:
            return await asyncio.to_thread(self._restores.remove, found)
        if one.kind is Kind.CHECKPOINT_FOLDER and self._checkpoints is not None:
            return await self._checkpoints.remove_folder(found)
        exclusive = self._images if one.kind is Kind.IMAGE_FOLDER else contextlib.nullcontext()
        async with exclusive:
            if found.owner in (await self._known()).get(one.kind, ()):
                return False
            return await self._scan.remove(found)


def _uuids(owners: Collection[str]) -> set[UUID] | None:
    """``None``: any may be an owner."""
    owned = NO_IDS | owners
    return None if owned.any_id else owned.uuids()
