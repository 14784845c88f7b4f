"""Builds a snapshot of the depth ``image``: a version with an image of a registry unpacked in it.

    folder ─▶ network ─▶ machine ─▶ start ─▶ identity ─▶ docker ─▶ pull
    temporary  a slot     row        restore  claimed     answers   the image is there
                                     of the version                  │
    swap ◀─── publish ◀─── freeze ◀─── walk ◀────────────────────────┘
    ready, in  summed,      it stands   a start, once
    the place  renamed      still
    of another

The walk is a container's start with a program of ours in it (see ``guest_walk``). Then the guest
forgets who it was, as a template does, so whoever is booted from it claims it as a version's. Its
memory is a difference from that of the version, which its row holds by a lease from the beginning.

A build that fails leaves a snapshot that is ``unhealthy`` and says why, or the old one as it was.
A build that a dead manager began is undone and begun again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Identity
from warmboot.host.guest.guest_walk import walk_start
from warmboot.host.network import Slot
from warmboot.host.vm.freeze_vm import FrozenVm
from warmboot.host.vm.vm_files import snapshot_disks
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.retries import note_failure, with_room
from warmboot.manager.vms.builder_vm import BuilderVm
from warmboot.model.errors import Conflict, ContainerError, DiskFull, NotFound, WarmbootError
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import (
    DISK_BASE,
    IMAGE_DIGEST,
    RuntimeSnapshot,
    SnapshotManifest,
    SnapshotState,
    requirements_of,
)
from warmboot.model.snapshot_fit import agent_of
from warmboot.model.vm import VmRecord, new_vm_id
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

WALK_TIMEOUT_S = 120.0


@dataclass(slots=True)
class ImageBuildNotes:
    """The journaled notes of a build, whose slot may have died since."""

    image_id: UUID
    vm_id: str = field(default_factory=new_vm_id)
    slot: Slot | None = None


@dataclass(slots=True)
class _Build:
    snapshot: RuntimeSnapshot
    image: RuntimeImage
    base: RuntimeSnapshot
    reference: str
    watch: Stopwatch
    folder: Path = field(init=False)
    record: VmRecord = field(init=False)
    digest: str = field(init=False)
    moment: FrozenVm = field(init=False)
    manifest: SnapshotManifest = field(init=False)


class BuildImageSnapshot:
    """Call it with the id of a snapshot of the depth ``image`` that is ``creating``; it returns
    when that is decided. ``budget_bytes`` is what all such may take; 0: no budget."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        boot_timeout_s: float,
        retry: RetryPolicy,
        budget_bytes: int = 0,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._boot_timeout_s = boot_timeout_s
        self._retry = retry
        self._budget_bytes = budget_bytes
        self._vm = BuilderVm(store, host)
        steps = (
            Step("folder", self._begin_folder, self._discard_folder),
            Step("network", self._reserve),  # given back with the machine
            Step("machine", self._make, self._unmake),
            Step("start", self._start),
            Step("identity", self._claim),
            Step("docker", self._wait_for_docker),
            Step("pull", self._pull),
            Step("walk", self._walk),
            Step("freeze", self._freeze),
            Step("publish", self._publish),
            Step("swap", self._swap),
        )
        self.saga = Saga(
            "build-image-snapshot", ImageBuildNotes, *(with_room(host, step) for step in steps)
        )

    async def __call__(self, snapshot_id: UUID) -> None:
        snapshot = await self._store.snapshots.get(snapshot_id)
        if snapshot.state is not SnapshotState.CREATING:
            return
        watch = Stopwatch()
        try:
            build = await self._look(snapshot, watch)
            await self._runner.run(self.saga, snapshot.id, ImageBuildNotes(build.image.id), build)
        except (WarmbootError, OSError) as error:
            cause = os_error(error) if isinstance(error, OSError) else error
            await note_failure(self._store, self._events, self._retry, snapshot, cause)
            return
        log.info(f"{build.reference} is prepared after {watch.elapsed_s:.2f}s, as {snapshot_id}")

    async def _look(self, snapshot: RuntimeSnapshot, watch: Stopwatch) -> _Build:
        assert snapshot.parent_id is not None
        assert snapshot.image is not None
        image = await self._store.images.get(snapshot.runtime_image_id)
        base = await self._store.snapshots.get(snapshot.parent_id)  # held, be it deleted
        return _Build(snapshot, image, base, snapshot.image, watch)

    async def _tell(self, build: _Build, stage: str) -> None:
        await self._events.emit(
            "runtime-snapshot.stage",
            build.snapshot.id,
            stage=stage,
            seconds=round(build.watch.elapsed_s, 3),
        )

    # -- steps ---------------------------------------------------------------------------------

    async def _begin_folder(self, notes: ImageBuildNotes, build: _Build) -> None:
        await self._host.storage.ensure_room()
        rootfs = snapshot_disks(build.base.snapshot_path).rootfs
        build.folder = await self._host.snapshots.begin_moment(
            notes.image_id, build.snapshot.id, rootfs
        )

    async def _discard_folder(self, snapshot_id: UUID, notes: ImageBuildNotes) -> None:
        with contextlib.suppress(NotFound):  # deleted, and collected already
            snapshot = await self._store.snapshots.get(snapshot_id)
            if snapshot.state in (SnapshotState.READY, SnapshotState.UNHEALTHY):
                return  # the manager died after the swap: it is a snapshot like any other now
        await self._host.snapshots.discard(notes.image_id, snapshot_id)

    async def _reserve(self, notes: ImageBuildNotes, _: _Build) -> None:
        notes.slot = await self._host.vms.reserve_slot()

    async def _make(self, notes: ImageBuildNotes, build: _Build) -> None:
        path = build.base.snapshot_path
        await self._host.snapshots.check(path)
        build.record = await self._vm.make(
            notes.vm_id, notes.slot, build.snapshot, build.image, snapshot_disks(path)
        )

    async def _unmake(self, _: UUID, notes: ImageBuildNotes) -> None:
        await self._vm.unmake(notes.vm_id, notes.slot)

    async def _start(self, _: ImageBuildNotes, build: _Build) -> None:
        await self._tell(build, "restore")
        record = build.record
        handle = await self._host.vms.restore(record.spec, build.base.snapshot_path, record.token)
        await self._store.vms.update(record.id, handle=handle)

    async def _claim(self, _: ImageBuildNotes, build: _Build) -> None:
        record = build.record
        identity = Identity("warmboot-template", secrets.token_hex(16), record.token)
        await self._host.vms.claim(record.id, identity, self._boot_timeout_s)

    async def _wait_for_docker(self, notes: ImageBuildNotes, build: _Build) -> None:
        await self._tell(build, "docker")
        await self._host.vms.wait_for_docker(notes.vm_id, self._boot_timeout_s)

    async def _pull(self, notes: ImageBuildNotes, build: _Build) -> None:
        await self._tell(build, "pull")
        vms, reference = self._host.vms, build.reference
        with _on_the_guests_disk():
            await vms.pull_image(notes.vm_id, notes.slot, reference)
        build.digest = await vms.link(notes.vm_id).docker.image_digest(reference)

    async def _walk(self, notes: ImageBuildNotes, build: _Build) -> None:
        await self._tell(build, "walk")
        link = self._host.vms.link(notes.vm_id)
        with _on_the_guests_disk():
            await walk_start(link, build.reference, WALK_TIMEOUT_S)

    async def _freeze(self, notes: ImageBuildNotes, build: _Build) -> None:
        await self._host.vms.link(notes.vm_id).prepare_snapshot()
        build.moment = await self._host.vms.freeze_in_use(build.record, build.folder, stays=True)

    async def _publish(self, notes: ImageBuildNotes, build: _Build) -> None:
        await self._tell(build, "publish")
        await self._vm.unmake(notes.vm_id, notes.slot)
        snapshot, base, moment = build.snapshot, build.base, build.moment
        requires = (await self._host.probe()).host
        if moment.machine.based:
            requires = requirements_of(base) or requires
        build.manifest = await self._host.snapshots.publish_moment(
            build.folder,
            SnapshotManifest(
                snapshot_id=snapshot.id,
                image_digest=build.image.digest,
                agent_version=agent_of(base) or build.image.manifest.agent_version,
                shape=snapshot.shape,
                requires=requires,
                files={},
                created_at=datetime.now(UTC),
                cmdline=build.record.spec.cmdline,
            ),
            source=base.snapshot_path,
            based=moment.machine.based,
            disk_base=moment.disk.base,
            layers=moment.layers,
            token=None,
            durable=True,
        )

    async def _swap(self, _: ImageBuildNotes, build: _Build) -> None:
        snapshot, manifest, moment = build.snapshot, build.manifest, build.manifest.moment
        assert moment is not None
        sizes = await self._host.snapshots.memory_metadata(snapshot.snapshot_path)
        _check_budget(build.reference, int(str(sizes["size_bytes"])), self._budget_bytes)
        metadata = {
            **sizes,
            "agent_version": manifest.agent_version,
            "requires": asdict(manifest.requires),
            DISK_BASE: None if moment.disk_base is None else str(moment.disk_base),
            IMAGE_DIGEST: build.digest,
            "cold_boot_s": build.base.metadata.get("cold_boot_s"),
        }
        told = {"seconds": round(build.watch.elapsed_s, 4), "replaces": snapshot.replaces}
        async with self._events.transaction() as emit:
            await self._store.snapshots.update_metadata(snapshot.id, metadata)
            await self._store.snapshots.set_state(snapshot.id, SnapshotState.READY)
            await emit("runtime-snapshot.ready", snapshot.id, **told)
            for other in await self._store.snapshots.with_image(build.image.id, build.reference):
                if other.id != snapshot.id and other.shape == snapshot.shape:
                    await self._store.snapshots.set_state(other.id, SnapshotState.DELETED)
                    await emit("runtime-snapshot.deleted", other.id)


def _check_budget(reference: str, size_bytes: int, budget_bytes: int) -> None:
    """``Conflict`` for one that would be collected as soon as it is ready, if not others for it."""
    if budget_bytes and size_bytes > budget_bytes:
        raise Conflict(
            f"{reference} is too large to be prepared: it takes {size_bytes >> 20} MiB",
            details="all that are prepared may take MANAGER_IMAGE_BUDGET_MIB, which is "
            f"{budget_bytes >> 20}",
            resolution="raise that, or use a smaller image",
        )


@contextlib.contextmanager
def _on_the_guests_disk() -> Iterator[None]:
    """That an image does not fit there is its own fault: room on this machine, which would be
    waited for, does not help. Where that has none the VM stalls, and its Docker says nothing."""
    try:
        yield
    except DiskFull as full:
        raise ContainerError(
            full.brief, details=full.details, resolution="use a smaller image"
        ) from full
