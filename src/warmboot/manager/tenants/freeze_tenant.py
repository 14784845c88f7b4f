"""Freezes a running container or engine, from which others go on; it runs on itself.

    row ─▶ folder ─▶ freeze ─▶ publish ─▶ ready
    and    temporary  it stands  summed,
    leases            still      renamed

What the VM itself lies on is kept for the snapshot by leases of its own. A moment of one that comes
of a moment lies on the same as that one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.vm.freeze_vm import MOST_LAYERS, FrozenVm, has_most_layers
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.tenants.pause_tenant import (
    PauseTenant,
    called,
    command_of,
    to_be_frozen,
    to_be_put_away,
)
from warmboot.model.errors import Conflict, IllegalTransition, NotFound, NotSupported, VmGone
from warmboot.model.runtime_image import RuntimeImage, speaks_with
from warmboot.model.runtime_snapshot import (
    DISK_BASE,
    Depth,
    HostRequirements,
    RuntimeSnapshot,
    SnapshotManifest,
    SnapshotState,
    requirements_of,
)
from warmboot.model.tenants.boot import Tenant
from warmboot.model.vm import VmKind, VmRecord
from warmboot.store import Store

log = structlog.get_logger(__name__)

Note = Callable[[], Awaitable[Mapping[str, Any]]]


async def _nothing() -> Mapping[str, Any]:
    return {}


@dataclass(slots=True)
class FreezeNotes:
    """Journaled."""

    image_id: UUID
    frozen: str
    """The id of the VM, which is not ours to end."""


@dataclass(slots=True)
class _Freeze:
    tenant: Tenant
    record: VmRecord
    image: RuntimeImage
    source: RuntimeSnapshot | None
    row: RuntimeSnapshot
    requires: HostRequirements
    agent_version: str
    note: Note
    watch: Stopwatch
    stays: bool
    folder: Path = field(init=False)
    moment: FrozenVm = field(init=False)
    manifest: SnapshotManifest = field(init=False)


class FreezeTenant:
    """Call it with a running tenant, whose lock is held, and the id of the snapshot to be."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        pauses: PauseTenant,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._pauses = pauses
        self.saga = Saga(
            "freeze-tenant",
            FreezeNotes,
            Step("row", self._add, self._forget),
            Step("folder", self._begin_folder, self._discard_folder),
            Step("freeze", self._freeze, self._go_on),
            Step("publish", self._publish),
            Step("ready", self._ready),
        )

    async def __call__(
        self,
        tenant: Tenant,
        snapshot_id: UUID,
        name: str | None,
        depth: Depth,
        note: Note = _nothing,
        *,
        stays: bool = False,
    ) -> None:
        """``note`` tells what of the tenant belongs to the snapshot's metadata. Its VM ``stays``
        still if that is to be ended."""
        watch = Stopwatch()
        freeze = await self._look(tenant, snapshot_id, name, depth, note, watch, stays)
        await self._host.storage.ensure_room()
        notes = FreezeNotes(freeze.image.id, freeze.record.id)
        await self._runner.run(self.saga, snapshot_id, notes, freeze)
        log.info(
            f"{tenant.kind.capitalize()} {tenant.id} was frozen in {watch.elapsed_s:.2f}s, "
            f"of which it stood still for {freeze.moment.standstill_s:.3f}s"
        )

    async def _look(
        self,
        tenant: Tenant,
        snapshot_id: UUID,
        name: str | None,
        depth: Depth,
        note: Note,
        watch: Stopwatch,
        stays: bool,
    ) -> _Freeze:
        """What is to be done, or why it cannot be."""
        put_away = stays and tenant.state == "exited"
        vm_id = to_be_put_away(tenant) if put_away else to_be_frozen(tenant)
        probe = await self._host.probe()
        if not probe.capabilities.freezes:
            raise NotSupported(
                f"this host's {probe.host.hypervisor} cannot freeze VMs in use",
                resolution="use QEMU or Firecracker (MANAGER_HYPERVISOR)",
            )
        agent_version = str((await self._host.vms.link(vm_id).health())["version"])
        if not speaks_with(agent_version):
            command = command_of(tenant)
            raise NotSupported(
                f"{called(tenant)} was booted by an earlier release, whose guest agent "
                "cannot become another's",
                resolution=f"boot it again: `{command} stop {tenant.name}`, then `{command} start "
                f"{tenant.name}`",
            )
        record = await self._store.vms.get(vm_id)
        if has_most_layers(record.spec):
            command = command_of(tenant)
            raise Conflict(
                f"{called(tenant)} was frozen too often: its disk has {MOST_LAYERS} layers",
                details="a freeze, of a fork too, adds one, and each makes the disk slower",
                resolution="start it again, which merges them: "
                f"`{command} stop {tenant.name}`, then `{command} start {tenant.name}`"
                if tenant.kind is VmKind.ENGINE
                else "run it anew (`warmboot run`): a stop leaves it its VM, and so its disk",
            )
        source = None
        if record.snapshot_id is not None:
            source = await self._store.snapshots.get(record.snapshot_id)
        assert tenant.runtime_image_id is not None
        image = await self._store.images.get(tenant.runtime_image_id)
        row = RuntimeSnapshot(
            id=snapshot_id,
            runtime_image_id=image.id,
            snapshot_path=self._host.snapshots.path(image.id, snapshot_id),
            state=SnapshotState.CREATING,
            hypervisor=probe.host.hypervisor,
            fc_version=probe.host.hypervisor_version,
            shape=record.spec.shape,
            created_at=datetime.now(UTC),
            depth=depth,
            name=name,
            parent_id=_root_of(source),
        )
        return _Freeze(
            *(tenant, record, image, source, row, probe.host, agent_version, note, watch, stays)
        )

    # -- steps ---------------------------------------------------------------------------------

    async def _add(self, _: FreezeNotes, freeze: _Freeze) -> None:
        row, source = freeze.row, freeze.source
        async with self._events.transaction() as emit:
            await self._store.snapshots.add(row)
            if source is not None:
                holder = str(freeze.tenant.id) if source.is_version else str(source.id)
                await self._store.snapshots.share_leases(holder, str(row.id))
            await emit(
                "runtime-snapshot.creating", row.id, replaces=None, cause=row.cause, version=0
            )

    async def _forget(self, snapshot_id: UUID, _: FreezeNotes) -> None:
        with contextlib.suppress(NotFound):
            if await self._is_done(snapshot_id):
                return
            await self._store.snapshots.release(str(snapshot_id))
            with contextlib.suppress(IllegalTransition):  # it is deleted already
                await self._store.snapshots.set_state(snapshot_id, SnapshotState.DELETED)
                await self._events.emit("runtime-snapshot.deleted", snapshot_id)
            await self._store.snapshots.purge(snapshot_id)

    async def _begin_folder(self, _: FreezeNotes, freeze: _Freeze) -> None:
        rootfs = next(disk.path for disk in freeze.record.spec.disks if disk.read_only)
        freeze.folder = await self._host.snapshots.begin_moment(
            freeze.image.id, freeze.row.id, rootfs
        )

    async def _discard_folder(self, snapshot_id: UUID, notes: FreezeNotes) -> None:
        with contextlib.suppress(NotFound):
            if await self._is_done(snapshot_id):
                return
        await self._host.snapshots.discard(notes.image_id, snapshot_id)

    async def _is_done(self, snapshot_id: UUID) -> bool:
        """The manager died after the last step: it is a snapshot like any other now."""
        return (await self._store.snapshots.get(snapshot_id)).state in (
            SnapshotState.READY,
            SnapshotState.UNHEALTHY,
        )

    async def _freeze(self, _: FreezeNotes, freeze: _Freeze) -> None:
        record = freeze.record
        named, folders = freeze.row.name is not None, freeze.tenant.folders
        # It may be started from its disk alone some day; and what goes on from it may not write to
        # folders of the host what its programs have written before.
        if named or any(not folder.read_only for folder in folders):
            await self._host.vms.link(record.id).sync()
        freeze.moment = await self._host.vms.freeze_in_use(
            record, freeze.folder, stays=freeze.stays
        )
        if not freeze.stays:
            await self._pauses.set_clock(freeze.tenant, record.id)

    async def _go_on(self, _: UUID, notes: FreezeNotes) -> None:
        """The VM may stand still since another manager was killed."""
        with contextlib.suppress(NotFound, VmGone):
            record = await self._store.vms.get(notes.frozen)
            await self._host.vms.go_on(record)
            tenant = await self._store.tenants(record.kind).get(record.owner_id)
            await self._pauses.set_clock(tenant, record.id)

    async def _publish(self, _: FreezeNotes, freeze: _Freeze) -> None:
        row, source = freeze.row, freeze.source
        requires = freeze.requires
        if source is not None and freeze.moment.machine.based:  # its VMM may be an earlier one's
            requires = requirements_of(source) or requires
        freeze.manifest = await self._host.snapshots.publish_moment(
            freeze.folder,
            SnapshotManifest(
                snapshot_id=row.id,
                image_digest=freeze.image.digest,
                agent_version=freeze.agent_version,
                shape=row.shape,
                requires=requires,
                files={},
                created_at=row.created_at,
                cmdline=freeze.record.spec.cmdline,
            ),
            source=None if source is None else source.snapshot_path,
            based=freeze.moment.machine.based,
            disk_base=freeze.moment.disk.base,
            layers=freeze.moment.layers,
            token=freeze.record.token,
            # Else it goes with those that are begun from it.
            durable=row.name is not None or freeze.stays,
        )

    async def _ready(self, _: FreezeNotes, freeze: _Freeze) -> None:
        row, manifest, moment = freeze.row, freeze.manifest, freeze.manifest.moment
        assert moment is not None
        metadata = {
            **await self._host.snapshots.memory_metadata(row.snapshot_path),
            "agent_version": manifest.agent_version,
            "requires": asdict(manifest.requires),
            str(freeze.tenant.kind): freeze.tenant.name,
            "standstill_s": round(freeze.moment.standstill_s, 4),
            DISK_BASE: None if moment.disk_base is None else str(moment.disk_base),
            **await freeze.note(),
        }
        told = {"seconds": round(freeze.watch.elapsed_s, 4), "replaces": None}
        async with self._events.transaction() as emit:
            await self._store.snapshots.update_metadata(row.id, metadata)
            await self._store.snapshots.set_state(row.id, SnapshotState.READY)
            await emit("runtime-snapshot.ready", row.id, **told)


def _root_of(source: RuntimeSnapshot | None) -> UUID | None:
    if source is None:
        return None
    return source.id if source.is_version else source.parent_id
