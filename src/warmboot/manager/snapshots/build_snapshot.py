"""Building a runtime snapshot: a VM is booted, warmed up, frozen, and its files are published.

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
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Identity
from warmboot.host.vm.vm_files import DiskSource
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored
from warmboot.manager.core.saga import Context, Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.images.check_image import PrepareImage
from warmboot.manager.snapshots.canary import Canary
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.retries import note_failed_build
from warmboot.manager.snapshots.snapshot_metadata import known_cold_boot_s, snapshot_metadata
from warmboot.manager.vms.boot_vm import with_second_try
from warmboot.manager.vms.builder_vm import BuilderVm
from warmboot.model.errors import (
    ContainerError,
    DiskFull,
    GuestError,
    HostError,
    HypervisorError,
    IllegalTransition,
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
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

_MAY_HAVE_STARVED = (HypervisorError, GuestError, ContainerError)
_LEAST_ROOM_BYTES = 1 << 20


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
            Step("network", self._vm.reserve, self._vm.unreserve),
            Step("machine", self._make, self._vm.unmake),
            Step("start", self._start),
            Step("identity", self._claim),
            Step("docker", self._wait_for_docker),
            Step("freeze", self._freeze),
            Step("publish", self._publish),
            *self._canary.steps,
            Step("swap", self._swap),
        )
        self.saga = Saga("build-snapshot", tuple(self._with_room(step) for step in steps))

    async def __call__(self, snapshot_id: UUID) -> None:
        snapshot = await self._store.snapshots.get(snapshot_id)
        if snapshot.state is not SnapshotState.CREATING:
            return
        image = await self._store.images.get(snapshot.runtime_image_id)
        watch = Stopwatch()
        background = _can_wait(snapshot)
        live: dict[str, Any] = {"snapshot": snapshot, "watch": watch, "background": background}

        async def build() -> Context:
            data = {
                "image_id": str(image.id),
                **self._vm.data(),
                **self._canary.data(),
            }
            return await self._runner.run(self.saga, str(snapshot_id), data, live)

        try:
            live["image"] = await self._prepare(image, thorough=True)
            await self._build(build, live)
        except WarmbootError as error:
            await self._give_up(snapshot, error)
            return
        except OSError as error:
            await self._give_up(snapshot, os_error(error))
            return
        log.info(f"Runtime snapshot {snapshot_id} is ready after {watch.elapsed_s:.2f}s")

    async def _build(self, build: Callable[[], Awaitable[Context]], live: dict[str, Any]) -> None:
        if live["background"]:
            try:
                await build()
            except _MAY_HAVE_STARVED as error:
                log.warning(
                    f"Runtime snapshot {live['snapshot'].id} is built once more, at full speed: "
                    f"{error.brief}",
                    details=error.details,
                )
                live["background"] = False
            else:
                return
        await with_second_try(build)

    def _with_room(self, step: Step) -> Step:
        """What goes wrong on a disk that is filled to its floor does so because of that."""

        async def do(context: Context) -> None:
            try:
                await step.do(context)
            except HostError as error:
                try:
                    self._host.check_room(_LEAST_ROOM_BYTES)
                except DiskFull as full:
                    details = f"{full.details}; what could not go on: {error.brief}"
                    raise DiskFull(
                        full.brief, details=details, resolution=full.resolution
                    ) from error
                raise

        return replace(step, do=do)

    async def _give_up(self, snapshot: RuntimeSnapshot, error: WarmbootError) -> None:
        log.error(f"Runtime snapshot {snapshot.id} could not be built: {error.brief}")
        target = SnapshotState.DELETED if snapshot.replaces else SnapshotState.UNHEALTHY
        what = f"the failure of runtime snapshot {snapshot.id}"
        told = {
            "error": error.as_dict(),
            "replaces": snapshot.replaces,
            "cause": snapshot.cause,
        }

        async def fail() -> None:
            async with self._events.transaction() as emit:
                await self._store.snapshots.set_state(snapshot.id, target, error=error.as_dict())
                await emit("runtime-snapshot.failed", snapshot.id, **told)

        try:
            await retry_until_stored(what, fail)
        except (IllegalTransition, NotFound):  # deleted while it was built
            return
        if snapshot.cause.automatic:
            spoiled = snapshot.replaces or snapshot.id
            await retry_until_stored(
                what,
                lambda: note_failed_build(self._store, self._events, self._retry, spoiled, error),
            )

    async def _tell(self, context: Context, stage: str) -> None:
        watch: Stopwatch = context.live["watch"]
        await self._events.emit(
            "runtime-snapshot.stage",
            context.subject_id,
            stage=stage,
            seconds=round(watch.elapsed_s, 3),
        )

    # -- steps ---------------------------------------------------------------------------------

    async def _begin_folder(self, context: Context) -> None:
        await self._host.ensure_room()
        # The disk gets its owner when the VM, and with it the slot, is made.
        context.live["folder"] = await self._host.files.begin(
            context.live["image"], UUID(context.subject_id)
        )

    async def _discard_folder(self, context: Context) -> None:
        with contextlib.suppress(NotFound):  # deleted, and collected already
            snapshot = await self._store.snapshots.get(UUID(context.subject_id))
            if snapshot.state in (SnapshotState.READY, SnapshotState.UNHEALTHY):
                return  # the manager died after the swap: it is a snapshot like any other now
        await self._host.files.discard(UUID(context.data["image_id"]), UUID(context.subject_id))

    async def _make(self, context: Context) -> None:
        folder: Path = context.live["folder"]
        await self._vm.make(
            context,
            DiskSource(folder / ROOTFS_FILE, folder / DISK_FILE),
            template_dir=folder,
            background=context.live["background"],
        )

    async def _start(self, context: Context) -> None:
        await self._tell(context, "boot")
        record = self._vm.record(context)
        context.live["booting"] = Stopwatch()
        handle = await self._host.boot(record.spec, record.token)
        await self._store.vms.update(record.id, handle=handle)

    async def _claim(self, context: Context) -> None:
        record = self._vm.record(context)
        identity = Identity("warmboot-template", secrets.token_hex(16), record.token)
        await self._host.claim(record.id, identity, self._boot_timeout_s)

    async def _wait_for_docker(self, context: Context) -> None:
        await self._tell(context, "docker")
        await self._host.wait_for_docker(self._vm.id(context), self._boot_timeout_s)
        booting: Stopwatch = context.live["booting"]
        context.live["cold_boot_s"] = round(booting.elapsed_s, 3)

    async def _freeze(self, context: Context) -> None:
        await self._tell(context, "warm-up")
        await self._host.freeze(self._vm.id(context))

    async def _publish(self, context: Context) -> None:
        await self._tell(context, "publish")
        # The VM must be gone before its files are summed: nothing may write to them any more.
        await self._vm.unmake(context)
        snapshot: RuntimeSnapshot = context.live["snapshot"]
        image: RuntimeImage = context.live["image"]
        probe = await self._host.probe()
        context.live["manifest"] = await self._host.files.publish(
            context.live["folder"],
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
        if context.live["manifest"].files[ROOTFS_FILE] != image.manifest.files["rootfs"]:
            await self._prepare(image, thorough=True)  # which says so if it is the image's
            raise HostError("the root file system was changed while the snapshot was built")
        await self._tell(context, "canary")

    async def _swap(self, context: Context) -> None:
        snapshot: RuntimeSnapshot = context.live["snapshot"]
        manifest: SnapshotManifest = context.live["manifest"]
        metadata = snapshot_metadata(manifest, snapshot.snapshot_path)
        metadata["canary"] = {
            "boot_s": round(context.live["canary_boot_s"], 3),
            "run_s": round(context.live["canary_run_s"], 3),
        }
        watch: Stopwatch = context.live["watch"]
        told = {"seconds": round(watch.elapsed_s, 4), "replaces": snapshot.replaces}
        async with self._events.transaction() as emit:
            old = await self._replaced(snapshot)
            metadata["cold_boot_s"] = context.live["cold_boot_s"]
            if context.live["background"]:
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
