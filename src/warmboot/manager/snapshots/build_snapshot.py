"""Builds a runtime snapshot: boots a VM, warms it up, freezes it and publishes its files.

    folder ─▶ network ─▶ machine ─▶ start ─▶ identity ─▶ docker ─▶ freeze
    temporary  a slot     row        cold     claimed     ready     paused, saved
                                     boot                             │
    swap ◀──── canary-run ◀─ … ◀─ canary-network ◀──── publish ◀──────┘
    ready, in   restored once and tried                 summed, renamed
    the old one's place

The image's sums are taken first, and a guest agent that is not understood is renewed (see
``check_image``).
Only what was restored once, with a container run in it, begins to serve (see ``canary``). A build
that fails leaves a snapshot that is ``unhealthy`` and says why; a rebuild that fails leaves the old
one as it was. A build that a dead manager began is undone and begun again. One that the manager
itself began and that failed is counted: ``reconcile_snapshots`` tries again, later each time.

What nobody waits for is built in the background. That the VM fails there may only mean that others
left nothing for it, so it is built once more at full speed before that counts.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Identity
from warmboot.host.network import Slot
from warmboot.host.vm.vm_files import DiskSource, snapshot_disks
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.images.check_image import PrepareImage
from warmboot.manager.snapshots.canary import Canary
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.retries import note_failure, with_room
from warmboot.manager.snapshots.snapshot_metadata import known_cold_boot_s, snapshot_metadata
from warmboot.manager.vms.boot_vm import with_second_try
from warmboot.manager.vms.builder_vm import BuilderVm
from warmboot.model.errors import (
    ContainerError,
    GuestError,
    HostError,
    HypervisorError,
    NotFound,
    WarmbootError,
)
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import (
    DISK_FILE,
    ROOTFS_FILE,
    BuildCause,
    RuntimeSnapshot,
    SnapshotManifest,
    SnapshotState,
)
from warmboot.model.vm import VmRecord, new_vm_id
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

_MAY_HAVE_STARVED = (HypervisorError, GuestError, ContainerError)


@dataclass(slots=True)
class BuildNotes:
    """The journaled notes of a build, with its two VMs, whose slots may have died since."""

    image_id: UUID
    vm_id: str = field(default_factory=new_vm_id)
    slot: Slot | None = None
    canary_vm_id: str = field(default_factory=new_vm_id)
    canary_slot: Slot | None = None


@dataclass(slots=True)
class _Build:
    """What is built, and what became of it so far."""

    snapshot: RuntimeSnapshot
    image: RuntimeImage
    watch: Stopwatch
    background: bool
    folder: Path = field(init=False)
    template: VmRecord = field(init=False)
    booting: Stopwatch = field(init=False)
    cold_boot_s: float = field(init=False)
    manifest: SnapshotManifest = field(init=False)
    canary: VmRecord = field(init=False)
    canary_boot_s: float = field(init=False)
    canary_run_s: float = field(init=False)


class BuildSnapshot:
    """Call it with the id of a snapshot in ``creating``; it returns when that is decided."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        prepare: PrepareImage,
        boot_timeout_s: float,
        canary_timeout_s: float = 30.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._prepare = prepare
        self._boot_timeout_s = boot_timeout_s
        self._retry = retry or RetryPolicy()
        self._vm = BuilderVm(store, host)
        self._canary = Canary(store, host, canary_timeout_s)
        steps = (
            Step("folder", self._begin_folder, self._discard_folder),
            Step("network", self._reserve),  # given back with the machine
            Step("machine", self._make, self._unmake),
            Step("start", self._start),
            Step("identity", self._claim),
            Step("docker", self._wait_for_docker),
            Step("freeze", self._freeze),
            Step("publish", self._publish),
            Step("canary-network", self._reserve_for_canary),
            Step("canary-machine", self._make_canary, self._unmake_canary),
            Step("canary-restore", self._restore_canary),
            Step("canary-run", self._run_canary),
            Step("swap", self._swap),
        )
        self.saga = Saga("build-snapshot", BuildNotes, *(with_room(host, step) for step in steps))

    async def __call__(self, snapshot_id: UUID) -> None:
        snapshot = await self._store.snapshots.get(snapshot_id)
        if snapshot.state is not SnapshotState.CREATING:
            return
        image = await self._store.images.get(snapshot.runtime_image_id)
        watch = Stopwatch()
        try:
            await self._build(snapshot, await self._prepare(image, thorough=True), watch)
        except (WarmbootError, OSError) as error:
            cause = os_error(error) if isinstance(error, OSError) else error
            await note_failure(self._store, self._events, self._retry, snapshot, cause)
            return
        log.info(f"Runtime snapshot {snapshot_id} is ready after {watch.elapsed_s:.2f}s")

    async def _build(
        self, snapshot: RuntimeSnapshot, image: RuntimeImage, watch: Stopwatch
    ) -> None:
        async def build(*, background: bool = False) -> None:
            live = _Build(snapshot, image, watch, background)
            await self._runner.run(self.saga, snapshot.id, BuildNotes(image.id), live)

        if _can_wait(snapshot):
            try:
                await build(background=True)
            except _MAY_HAVE_STARVED as error:
                log.warning(
                    f"Runtime snapshot {snapshot.id} is built once more, at full speed: "
                    f"{error.brief}",
                    details=error.details,
                )
            else:
                return
        await with_second_try(build)

    async def _tell(self, build: _Build, stage: str) -> None:
        await self._events.emit(
            "runtime-snapshot.stage",
            build.snapshot.id,
            stage=stage,
            seconds=round(build.watch.elapsed_s, 3),
        )

    # -- steps ---------------------------------------------------------------------------------

    async def _begin_folder(self, _: BuildNotes, build: _Build) -> None:
        await self._host.storage.ensure_room()
        # The disk gets its owner when the VM, and with it the slot, is made.
        build.folder = await self._host.snapshots.begin(build.image, build.snapshot.id)

    async def _discard_folder(self, snapshot_id: UUID, notes: BuildNotes) -> None:
        with contextlib.suppress(NotFound):  # deleted, and collected already
            snapshot = await self._store.snapshots.get(snapshot_id)
            if snapshot.state in (SnapshotState.READY, SnapshotState.UNHEALTHY):
                return  # the manager died after the swap: it is a snapshot like any other now
        await self._host.snapshots.discard(notes.image_id, snapshot_id)

    async def _reserve(self, notes: BuildNotes, _: _Build) -> None:
        notes.slot = await self._host.vms.reserve_slot()

    async def _make(self, notes: BuildNotes, build: _Build) -> None:
        build.template = await self._vm.make(
            notes.vm_id,
            notes.slot,
            build.snapshot,
            build.image,
            DiskSource(build.folder / ROOTFS_FILE, build.folder / DISK_FILE),
            template_dir=build.folder,
            background=build.background,
        )

    async def _unmake(self, _: UUID, notes: BuildNotes) -> None:
        await self._vm.unmake(notes.vm_id, notes.slot)

    async def _start(self, _: BuildNotes, build: _Build) -> None:
        await self._tell(build, "boot")
        record = build.template
        build.booting = Stopwatch()
        handle = await self._host.vms.boot(record.spec, record.token)
        await self._store.vms.update(record.id, handle=handle)

    async def _claim(self, _: BuildNotes, build: _Build) -> None:
        record = build.template
        identity = Identity("warmboot-template", secrets.token_hex(16), record.token)
        await self._host.vms.claim(record.id, identity, self._boot_timeout_s)

    async def _wait_for_docker(self, notes: BuildNotes, build: _Build) -> None:
        await self._tell(build, "docker")
        await self._host.vms.wait_for_docker(notes.vm_id, self._boot_timeout_s)
        build.cold_boot_s = round(build.booting.elapsed_s, 3)

    async def _freeze(self, notes: BuildNotes, build: _Build) -> None:
        await self._tell(build, "warm-up")
        await self._host.vms.freeze(notes.vm_id)

    async def _publish(self, notes: BuildNotes, build: _Build) -> None:
        await self._tell(build, "publish")
        # The VM must be gone before its files are summed: nothing may write to them any more.
        await self._vm.unmake(notes.vm_id, notes.slot)
        snapshot, image = build.snapshot, build.image
        probe = await self._host.probe()
        build.manifest = await self._host.snapshots.publish(
            build.folder,
            SnapshotManifest(
                snapshot_id=snapshot.id,
                image_digest=image.digest,
                agent_version=image.manifest.agent_version,
                shape=snapshot.shape,
                requires=probe.host,
                files={},
                created_at=datetime.now(UTC),
                cmdline=image.manifest.cmdline,
            ),
        )
        if build.manifest.files[ROOTFS_FILE] != image.manifest.files["rootfs"]:
            await self._prepare(image, thorough=True)  # which says so if it is the image's
            raise HostError("the root file system was changed while the snapshot was built")
        await self._tell(build, "canary")

    async def _reserve_for_canary(self, notes: BuildNotes, _: _Build) -> None:
        notes.canary_slot = await self._host.vms.reserve_slot()

    async def _make_canary(self, notes: BuildNotes, build: _Build) -> None:
        source = snapshot_disks(build.snapshot.snapshot_path)
        build.canary = await self._vm.make(
            notes.canary_vm_id, notes.canary_slot, build.snapshot, build.image, source
        )

    async def _unmake_canary(self, _: UUID, notes: BuildNotes) -> None:
        await self._vm.unmake(notes.canary_vm_id, notes.canary_slot)

    async def _restore_canary(self, _: BuildNotes, build: _Build) -> None:
        build.canary_boot_s = await self._canary.restore(build.snapshot, build.canary)

    async def _run_canary(self, notes: BuildNotes, build: _Build) -> None:
        build.canary_run_s = await self._canary.run(notes.canary_vm_id)
        # Not kept until the end of the saga: nothing maps the files when they begin to serve.
        await self._vm.unmake(notes.canary_vm_id, notes.canary_slot)

    async def _swap(self, _: BuildNotes, build: _Build) -> None:
        snapshot, manifest = build.snapshot, build.manifest
        metadata = snapshot_metadata(manifest, snapshot.snapshot_path)
        metadata["canary"] = {
            "boot_s": round(build.canary_boot_s, 3),
            "run_s": round(build.canary_run_s, 3),
        }
        told = {"seconds": round(build.watch.elapsed_s, 4), "replaces": snapshot.replaces}
        async with self._events.transaction() as emit:
            old = await self._replaced(snapshot)
            metadata["cold_boot_s"] = build.cold_boot_s
            if build.background:
                metadata["cold_boot_s"] = known_cold_boot_s(old, manifest.requires)
            await self._store.snapshots.update_metadata(snapshot.id, metadata)
            if old is not None:
                await self._store.snapshots.swap(old.id, snapshot.id)
            else:
                await self._store.snapshots.set_state(snapshot.id, SnapshotState.READY)
            await emit("runtime-snapshot.ready", snapshot.id, **told)
            if snapshot.replaces is not None:
                await emit("runtime-snapshot.deleted", snapshot.replaces)

    async def _replaced(self, snapshot: RuntimeSnapshot) -> RuntimeSnapshot | None:
        """The one that it takes the place of; that may have been deleted during the rebuild."""
        if snapshot.replaces is None:
            return None
        try:
            old = await self._store.snapshots.get(snapshot.replaces)
        except NotFound:
            return None
        return None if old.state is SnapshotState.DELETED else old


def _can_wait(snapshot: RuntimeSnapshot) -> bool:
    """Nobody waits for it: the one that it replaces serves, or another shape does."""
    return snapshot.replaces is not None or snapshot.cause is BuildCause.DEMAND
