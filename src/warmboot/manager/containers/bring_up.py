"""Brings a container from ``creating`` to ``running``: boots its VM, and starts it there.

    VM (see boot_tenant) ─▶ ports ─▶ image ─▶ create ─▶ start ─▶ running

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
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.containers.first_attach import FirstAttach
from warmboot.manager.containers.pull_progress import PullProgress
from warmboot.manager.core.admission import BootAdmission, BootTicket
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored, store_state
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.folders.given_folders import told_as_here
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.snapshots.watch_demand import WatchImages
from warmboot.manager.tenants.boot_tenant import BootTenant, in_words
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import IllegalTransition, ImageNotFound, NotFound, WarmbootError
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.tenants.container_options import Health, PullPolicy
from warmboot.model.vm import VmRecord
from warmboot.store import Store

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
        boot: BootTenant,
        admission: BootAdmission,
        health: SnapshotHealth,
        archives: ArchiveFiles,
        folders: TenantFolders,
        snapshots: RuntimeSnapshots,
        images: WatchImages,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._boot = boot
        self._admission = admission
        self._health = health
        self._archives = archives
        self._folders = folders
        self._snapshots = snapshots
        self._images = images

    async def __call__(self, asked: Asked) -> None:
        container_id, watch = asked.container_id, asked.watch
        try:
            container = asked.fresh or await self._found(container_id)
        except NotFound:  # deleted before its turn came
            return
        if container.state is not ContainerState.CREATING:
            return
        try:
            record, warmed = await self._boot(
                container, asked.watch, asked.ticket, fresh=asked.fresh is not None
            )
            await self._admission.after_boots()
            if warmed is not None:
                await self._health.succeeded(warmed.snapshot, warmed.boot_s)
            await self._provision(container, record, asked)
        except (WarmbootError, OSError) as error:
            await self._fail(container, in_words(error), watch)
        except Exception as error:  # a bug, too, may not leave it ``creating`` for ever
            log.exception(f"Container {container_id} met a bug")
            await self._fail(container, in_words(error), watch)

    async def _found(self, container_id: UUID) -> Container:
        return await retry_until_stored(
            f"container {container_id}", lambda: self._store.containers.get(container_id)
        )

    async def _fail(self, container: Container, error: WarmbootError, watch: Stopwatch) -> None:
        """The container could not be brought up: its VM goes, and it says why."""
        container_id, what = container.id, f"the failure of container {container.id}"
        log.error(f"Container {container_id} failed: {error.brief}", details=error.details)
        await retry_until_stored(what, lambda: self._boot.clear_away(container))
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

    # -- the container in it -------------------------------------------------------------------

    async def _provision(self, container: Container, record: VmRecord, asked: Asked) -> None:
        link = self._host.vms.link(record.id)
        spec, watch = container.spec, asked.watch
        with watch.stage("ports"):
            ports = await self._host.vms.publish(slot_of(record), spec.ports)
        pulled = await self._provide_image(container, record, watch)
        if spec.publish_all:
            with watch.stage("ports"):
                exposed = await guest_containers.exposed_ports(link, spec)
                ports += await self._host.vms.publish(slot_of(record), exposed)
        if spec.folders:
            await self._boot.tell(container, "folders")
            with watch.stage("folders"):
                await self._folders.bring(container, record)
        with watch.stage("create"):
            # In a fork it is there already, with what it has mounted.
            mounted = spec if spec.snapshot else await self._folders.mounted(spec)
            with told_as_here(spec.folders):
                created = await guest_containers.ensure_created(link, mounted)
        if asked.first is not None:
            await asked.first.before_start(record.id, created.docker_id)
        await self._boot.tell(container, "start")
        with watch.stage("start-own-network" if spec.options.own_network else "start"):
            # A manager that was killed may have started it: the command must not run twice.
            if created.fresh or container.started_at is not None:
                with told_as_here(spec.folders):
                    await link.docker.start(created.docker_id)
        # From here on it runs: what the database does not take now it takes later.
        running = await store_state(
            self._store,
            self._events,
            container.id,
            ContainerState.RUNNING,
            told=lambda running: {
                "boot_method": running.boot_method,
                "seconds": round(watch.elapsed_s, 4),
                "stages": watch.event_data,
            },
            docker_id=created.docker_id,
            health=Health.STARTING if created.checked else Health.NONE,
            ports=ports,
            stages=watch.stages,
            started_at=datetime.now(UTC),
            finished_at=None,
            exit_code=None,
            error=None,
        )
        await self._log_provisioned(running, watch)
        if pulled and container.image_reference is not None and record.snapshot_id is not None:
            self._images.started(container.image_reference, record.snapshot_id)

    async def _provide_image(
        self, container: Container, record: VmRecord, watch: Stopwatch
    ) -> bool:
        """Have it be in the guest; whether it was pulled."""
        link, spec = self._host.vms.link(record.id), container.spec
        if spec.snapshot and await link.docker.has_image(spec.image):
            return False  # its container is there, too
        if spec.archive is not None:
            await self._boot.tell(container, "load")
            with watch.stage("load"):
                path = self._archives.find(spec.archive)
                loaded = await link.docker.load_image(self._archives.read(path))
                await guest_containers.name_loaded_image(link, loaded, spec.image)
            return False
        with watch.stage("image"):
            there = await link.docker.has_image(spec.image)
        if spec.options.pull is PullPolicy.NEVER and not there:
            raise ImageNotFound(
                f"No such image: {spec.image}",
                details="--pull never: it is taken only if Docker in the VM has it already",
                resolution="leave out --pull never, or give the image: "
                "`warmboot run --archive FILE`",
            )
        if there and spec.options.pull is not PullPolicy.ALWAYS:
            return False
        former = await link.docker.image_digest(spec.image) if there else None
        await self._boot.tell(container, "pull", image=spec.image)
        with watch.stage("pull"):
            progress = PullProgress(self._events, container.id)
            where = (record.id, slot_of(record))
            platform = spec.options.platform
            await self._host.vms.pull_image(*where, spec.image, progress, platform)
        if former is not None and record.snapshot_id is not None:
            await self._look_whether_moved(spec.image, former, record, record.snapshot_id)
        return True

    async def _look_whether_moved(
        self, image: str, former: str, record: VmRecord, snapshot_id: UUID
    ) -> None:
        """A tag that a snapshot has had from its build may be of another image by now."""
        now = await self._host.vms.link(record.id).docker.image_digest(image)
        if now == former:
            return
        with contextlib.suppress(NotFound):  # the snapshot is gone
            await self._snapshots.image_moved(snapshot_id, now)

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


def bring_up_key(container_id: UUID) -> str:
    """The key of the task that brings a container up."""
    return f"bring-up {container_id}"
