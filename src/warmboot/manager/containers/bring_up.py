"""Brings a container from ``creating`` to ``running``: boots its VM, and starts it there.

    warm boot (see warm_boot) ────────────────────────┐
       │ no version, or none that works               ▼
       ▼                                        image ─▶ create ─▶ ports ─▶ start ─▶ running
    cold boot, reason ────────────────────────────────┘

It may be run again for a container that another manager began: what is there is used.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.guest import guest_containers
from warmboot.host.network import Slot
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.containers.first_attach import FirstAttach
from warmboot.manager.containers.pull_progress import PullProgress
from warmboot.manager.containers.warm_boot import WarmBoot, Warmed
from warmboot.manager.core.admission import BootAdmission, BootTicket
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored, store_state
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.images.check_image import PrepareImage
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.snapshots.watch_demand import WatchDemand
from warmboot.manager.vms.boot_vm import BootVm, with_second_try
from warmboot.model.container import (
    BootMethod,
    Container,
    ContainerState,
    FallbackReason,
)
from warmboot.model.errors import HostError, IllegalTransition, NotFound, WarmbootError
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.vm import VmRecord
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be brought up, since when, its place among the boots; whole, if just created.

    ``first``: whom it waits for before it is started.
    """

    container_id: UUID
    ticket: BootTicket
    watch: Stopwatch = field(default_factory=Stopwatch)
    fresh: Container | None = None
    first: FirstAttach | None = None


class BringUp:
    """Call it with what was asked for; it returns when the container runs or has failed."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        boot: BootVm,
        prepare: PrepareImage,
        admission: BootAdmission,
        warm: WarmBoot,
        health: SnapshotHealth,
        demand: WatchDemand,
        archives: ArchiveFiles,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._boot = boot
        self._prepare = prepare
        self._admission = admission
        self._warm = warm
        self._health = health
        self._demand = demand
        self._archives = archives

    async def __call__(self, asked: Asked) -> None:
        container_id, watch = asked.container_id, asked.watch
        try:
            container = asked.fresh or await self._found(container_id)
        except NotFound:  # deleted before its turn came
            return
        if container.state is not ContainerState.CREATING:
            return
        try:
            record, warmed = await self._machine(container, asked)
            await self._admission.after_boots()
            if warmed is not None:
                await self._health.succeeded(warmed.snapshot, warmed.boot_s)
            await self._provision(container, record, asked)
        except WarmbootError as error:
            await self._fail(container, error, watch)
        except OSError as error:
            await self._fail(container, os_error(error), watch)
        except Exception as error:  # a bug, too, may not leave it ``creating`` for ever
            log.exception(f"Container {container_id} met a bug")
            bug = WarmbootError(
                "something unexpected went wrong in warmboot",
                details=repr(error),
                resolution="try again; if it happens again, report it with the lines of the log",
            )
            await self._fail(container, bug, watch)

    async def _found(self, container_id: UUID) -> Container:
        return await retry_until_stored(
            f"container {container_id}", lambda: self._store.containers.get(container_id)
        )

    async def _fail(self, container: Container, error: WarmbootError, watch: Stopwatch) -> None:
        """The container could not be brought up: its VM goes, and it says why.

        One that has run before keeps its disk, and with it the lease on what is under it.
        """
        container_id, what = container.id, f"the failure of container {container.id}"
        log.error(f"Container {container_id} failed: {error.brief}", details=error.details)
        await retry_until_stored(what, lambda: self._clear_away(container))
        try:
            await store_state(
                self._store,
                self._events,
                container_id,
                ContainerState.FAILED,
                told=lambda failed: {
                    "error": error.as_dict(),
                    "stage": watch.last_stage,
                    "reason": failed.fallback_reason,
                },
                error=error.as_dict(),
                vm_id=None,
                ports=(),
                finished_at=datetime.now(UTC),
            )
        except (IllegalTransition, NotFound):  # it is being deleted
            return

    async def _clear_away(self, container: Container) -> None:
        """Give back what its VM had. Idempotent."""
        keep, left = container.started_at is not None, False
        for record in await self._store.vms.of_owner(container.id):
            try:
                await self._host.vms.destroy(record.id, slot_of(record), keep_folder=keep)
            except (HostError, OSError) as trouble:
                # Its record stays: the next start or removal gives back what is left of the VM.
                log.error("a VM was not cleared away", vm=record.id, error=str(trouble))
                left = True
                continue
            if keep:
                left = True
                await self._store.vms.update(record.id, handle=None, slot=None)
            else:
                await self._store.vms.remove(record.id)
        if not left:
            await self._store.snapshots.release(str(container.id))

    # -- the VM --------------------------------------------------------------------------------

    async def _machine(self, container: Container, asked: Asked) -> tuple[VmRecord, Warmed | None]:
        """A VM in which Docker has answered; and what is to be counted, if that was a success."""
        watch, ticket = asked.watch, asked.ticket
        for record in () if asked.fresh else await self._store.vms.of_owner(container.id):
            if record.handle is not None:
                await self._adopted(container, record)
                return record, None  # an earlier manager booted it
            await self._expect(container, FallbackReason.KEEPS_DISK)
            image = await self._prepare(await self._image(container))
            kept = await self._boot.again(container, image, record, watch, ticket)
            await self._booted(container, kept, watch, FallbackReason.KEEPS_DISK)
            return kept, None
        image = await self._image(container)
        try:
            outcome = await self._warm(container, image, watch, ticket)
        finally:
            ticket.booted()
        if isinstance(outcome, Warmed):
            await self._booted(container, outcome.record, watch, None, snapshot=outcome.snapshot)
            return outcome.record, outcome
        if outcome.reason is not FallbackReason.REQUESTED:
            why = ": ".join(part for part in (outcome.reason.phrase, outcome.details) if part)
            log.warning(
                f"Warm boot failed for container {container.id}, falling back to cold boot: {why}"
            )
        await self._expect(container, outcome.reason, outcome.details)
        await self._tell(container, "boot", reason=outcome.reason, details=outcome.details)
        prepared = await self._prepare(image)
        record = await with_second_try(lambda: self._boot.cold(container, prepared, watch, ticket))
        await self._booted(container, record, watch, outcome.reason, outcome.details)
        if outcome.reason is FallbackReason.SHAPE_MISMATCH:
            await self._demand.missed(image.id, container.shape)
        return record, None

    async def _expect(
        self, container: Container, reason: FallbackReason, details: str = ""
    ) -> None:
        """Note why it boots cold before it does: a later manager may find the VM ready."""
        await self._store.containers.update(
            container.id, fallback_reason=reason, fallback_details=details
        )

    async def _adopted(self, container: Container, record: VmRecord) -> None:
        """Catch up on what an earlier manager was killed before it noted: the boot was done."""
        if container.vm_id == record.id:
            return
        method = BootMethod.WARM if container.fallback_reason is None else BootMethod.COLD
        snapshot_id = record.snapshot_id if method is BootMethod.WARM else None
        snapshot = None if snapshot_id is None else await self._store.snapshots.get(snapshot_id)
        await self._store.containers.update(
            container.id,
            vm_id=record.id,
            boot_method=method,
            runtime_snapshot_id=snapshot_id,
            snapshot_version=None if snapshot is None else snapshot.version,
            shape=record.spec.shape,
        )
        await self._tell_booted(container, record, method, reason=container.fallback_reason)
        if snapshot is not None:
            await self._health.succeeded(snapshot)

    async def _image(self, container: Container) -> RuntimeImage:
        assert container.runtime_image_id is not None
        return await self._store.images.get(container.runtime_image_id)

    async def _booted(
        self,
        container: Container,
        record: VmRecord,
        watch: Stopwatch,
        reason: FallbackReason | None,
        details: str = "",
        snapshot: RuntimeSnapshot | None = None,
    ) -> None:
        method = BootMethod.WARM if reason is None else BootMethod.COLD
        took = watch.elapsed_s
        log.info(
            f"Container {container.id} VM created: {record.id} via {method} boot in {took:.2f}s"
        )
        await self._store.containers.update(
            container.id,
            vm_id=record.id,
            boot_method=method,
            fallback_reason=reason,
            fallback_details=details,
            runtime_snapshot_id=snapshot.id if snapshot else None,
            snapshot_version=snapshot.version if snapshot else None,
            shape=record.spec.shape,
            boot_s=round(took, 4),
            stages=watch.stages,
        )
        await self._tell_booted(
            container,
            record,
            method,
            reason=reason,
            seconds=round(took, 4),
            stages=watch.told,
            shape=[record.spec.shape.vcpus, record.spec.shape.memory_mib],
            snapshot=str(snapshot.id) if snapshot else None,
            version=snapshot.version if snapshot else None,
            cold_boot_s=snapshot.metadata.get("cold_boot_s") if snapshot else None,
        )

    async def _tell_booted(
        self, container: Container, record: VmRecord, method: BootMethod, **data: object
    ) -> None:
        await self._events.emit(
            "container.booted", container.id, vm_id=record.id, boot_method=method, **data
        )

    # -- the container in it -------------------------------------------------------------------

    async def _provision(self, container: Container, record: VmRecord, asked: Asked) -> None:
        link = self._host.vms.link(record.id)
        spec, watch = container.spec, asked.watch
        with watch.stage("ports"):
            ports = await self._host.vms.publish(slot_of(record), spec.ports)
        await self._provide_image(container, record, watch)
        with watch.stage("create"):
            docker_id, fresh = await guest_containers.ensure_created(link, spec)
        if asked.first is not None:
            await asked.first.before_start(record.id, docker_id)
        await self._tell(container, "start")
        with watch.stage("start"):
            # A manager that was killed may have started it: the command must not run twice.
            if fresh or container.started_at is not None:
                await link.docker.start(docker_id)
        # From here on it runs: what the database does not take now it takes later.
        running = await store_state(
            self._store,
            self._events,
            container.id,
            ContainerState.RUNNING,
            told=lambda running: {
                "boot_method": running.boot_method,
                "seconds": round(watch.elapsed_s, 4),
                "stages": watch.told,
            },
            docker_id=docker_id,
            ports=ports,
            stages=watch.stages,
            started_at=datetime.now(UTC),
            finished_at=None,
            exit_code=None,
            error=None,
        )
        await self._log_provisioned(running, watch)

    async def _provide_image(
        self, container: Container, record: VmRecord, watch: Stopwatch
    ) -> None:
        link, spec = self._host.vms.link(record.id), container.spec
        if spec.archive is not None:
            await self._tell(container, "load")
            with watch.stage("load"):
                path = self._archives.find(spec.archive)
                loaded = await link.docker.load_image(self._archives.read(path))
                await guest_containers.name_loaded_image(link, loaded, spec.image)
            return
        with watch.stage("image"):
            if await link.docker.has_image(spec.image):
                return
        await self._tell(container, "pull", image=spec.image)
        with watch.stage("pull"):
            progress = PullProgress(self._events, container.id)
            await self._host.vms.pull_image(record.id, slot_of(record), spec.image, progress)

    async def _log_provisioned(self, container: Container, watch: Stopwatch) -> None:
        saved = ""
        if container.boot_method is BootMethod.WARM and container.runtime_snapshot_id:
            with contextlib.suppress(WarmbootError):  # it is only for the log
                snapshot = await self._store.snapshots.get(container.runtime_snapshot_id)
                cold_s = snapshot.metadata.get("cold_boot_s")
                if cold_s and container.boot_s is not None:
                    saved = f" (saved ~{max(0.0, cold_s - container.boot_s):.0f}s)"
        log.info(
            f"Container {container.id} fully provisioned in {watch.elapsed_s:.2f}s "
            f"via {container.boot_method} boot{saved}"
        )
        log.info(f"Container {container.id} stages: {watch.line}")

    async def _tell(self, container: Container, stage: str, **data: object) -> None:
        await self._events.emit("container.stage", container.id, stage=stage, **data)


def bring_up_key(container_id: UUID) -> str:
    """The key of the task that brings a container up."""
    return f"bring-up {container_id}"


def slot_of(record: VmRecord) -> Slot | None:
    return None if record.slot is None else Slot.from_dict(record.slot)
