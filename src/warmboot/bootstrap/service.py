"""Settings in, a running service out: all parts of a manager, wired."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import structlog

from warmboot.api.app import create_app
from warmboot.api.http.limits import HttpLimits, raise_descriptor_limit
from warmboot.api.http.listeners import listeners, socket_check, who_may
from warmboot.api.http.server import HttpServer
from warmboot.api.middleware.auth import check_bind
from warmboot.bootstrap.host import all_hypervisors, host_agent
from warmboot.bootstrap.housekeeping import Collecting, Kept, housekeeping_parts
from warmboot.bootstrap.lock import hold_host
from warmboot.bootstrap.logs import configure_logging
from warmboot.bootstrap.workers import WorkerParts, worker_checks, worker_parts
from warmboot.host.agent import HostAgent
from warmboot.manager import doctor
from warmboot.manager.check_storage_owner import check_storage_owner
from warmboot.manager.containers.archives import ArchiveFiles
from warmboot.manager.containers.bring_up import BringUp
from warmboot.manager.containers.containers import Containers
from warmboot.manager.containers.keep_unresponsive import KeepUnresponsive
from warmboot.manager.containers.resume_stalled import ResumeStalled
from warmboot.manager.containers.warm_boot import WarmBoot, WarmBootConfig
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.core.background import Work
from warmboot.manager.core.boot_admission import BootAdmission
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.may_own import unreadable_rows
from warmboot.manager.core.saga import Hook, SagaRunner
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.core.unsettled import Unsettled
from warmboot.manager.core.uploads import Uploads
from warmboot.manager.garbage.expire_records import keep_expiring
from warmboot.manager.images.check_image import CheckImage, PrepareImage
from warmboot.manager.images.configured_image import ConfiguredFiles, ConfiguredImage
from warmboot.manager.images.renew_agent import RenewAgent
from warmboot.manager.images.runtime_images import RuntimeImages
from warmboot.manager.metrics import ManagerMetrics, StateCollector
from warmboot.manager.ports import Check, Services
from warmboot.manager.reconcile import Reconcile
from warmboot.manager.report_repairs import keep_reporting
from warmboot.manager.snapshots.build_snapshot import BuildSnapshot
from warmboot.manager.snapshots.plan_rebuilds import RetryPolicy
from warmboot.manager.snapshots.reconcile_snapshots import ReconcilerConfig, SnapshotReconciler
from warmboot.manager.snapshots.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.snapshots.shape_demand import DemandPolicy
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.snapshots.watch_demand import WatchDemand
from warmboot.manager.system import System
from warmboot.manager.vms.boot_vm import BootTimeouts, BootVm
from warmboot.manager.vms.warm_pool import WarmPool
from warmboot.manager.workers.worker_tokens import WorkerTokens
from warmboot.settings import Settings, not_settings
from warmboot.store import Store
from warmboot.store.database_lock import lock_database
from warmboot.system.service_manager import READY, STOPPING, notify

log = structlog.get_logger("warmboot")


@dataclass(frozen=True, slots=True)
class Running:
    """A manager that has reconciled and takes requests."""

    services: Services
    store: Store
    host: HostAgent
    tokens: WorkerTokens


@asynccontextmanager
async def running(settings: Settings, hook: Hook | None = None) -> AsyncIterator[Running]:
    """A manager over its storage; on leaving it lets go of its VMs, which run on."""
    with hold_host(settings):
        async with _running(settings, hook) as manager:
            yield manager


@asynccontextmanager
async def _running(settings: Settings, hook: Hook | None = None) -> AsyncIterator[Running]:
    host = await host_agent(settings)
    url = settings.effective_database_url
    async with lock_database(url, _who(settings)), Store.open(url) as store:
        await check_storage_owner(store, settings.storage_root)
        events, tasks, runner = EventLog(store), Tasks(), SagaRunner(store, hook)
        unsettled, uploads = Unsettled(), Uploads(host)
        events.observe(unsettled.on_event)
        async with worker_parts(
            settings, store, runner, events, tasks, unsettled, uploads
        ) as worker:
            parts = _wire(settings, store, host, runner, events, tasks, worker, unsettled, uploads)
            await events.start()
            await parts.metrics.start()
            try:
                await parts.reconcile()
                await worker.reconcile()
                await parts.demand.start()
                tasks.keep_going(
                    Work.RECONCILE_SNAPSHOTS, "look-after-snapshots", parts.snapshot_reconciler
                )
                tasks.keep_going(Work.WARM_POOL, "stand-by", parts.warm_pool.keep_filled)
                tasks.keep_going(Work.HOUSEKEEPING, "housekeeping", parts.kept.housekeeping)
                expire = partial(keep_expiring, store, parts.metrics.failed)
                tasks.keep_going(Work.EXPIRE_RECORDS, "forget-old", expire)
                reporting = partial(keep_reporting, host.repaired, events, parts.metrics.failed)
                tasks.keep_going(Work.NETWORK_RULES, "network-rules", reporting)
                await parts.given.register()
                yield Running(parts.services, store, host, worker.tokens)
            finally:
                try:
                    await worker.stop()
                finally:
                    await tasks.stop()
                    await host.stop()


def _who(settings: Settings) -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}, {settings.storage_root}"


@dataclass(frozen=True, slots=True)
class _Parts:
    services: Services
    reconcile: Reconcile
    metrics: ManagerMetrics
    warm_pool: WarmPool
    demand: WatchDemand
    snapshot_reconciler: SnapshotReconciler
    kept: Kept
    given: ConfiguredImage


def _wire(
    settings: Settings,
    store: Store,
    host: HostAgent,
    runner: SagaRunner,
    events: EventLog,
    tasks: Tasks,
    worker: WorkerParts,
    unsettled: Unsettled,
    uploads: Uploads,
) -> _Parts:
    shape = settings.default_shape
    archives = ArchiveFiles(settings.storage_root / "archives", uploads)
    collecting = Collecting(settings, store, host, runner, events)
    garbage = collecting.garbage
    attention, retry = asyncio.Event(), _retry(settings)
    renew = RenewAgent(store, host, runner, events, garbage, collecting.image_folders)
    check_image = CheckImage(store, host, events, attention.set)
    prepare = PrepareImage(check_image, renew)
    build = BuildSnapshot(
        store,
        host,
        runner,
        events,
        prepare,
        settings.cold_boot_timeout_s,
        settings.warm_boot_timeout_s,
        retry,
    )
    snapshots = RuntimeSnapshots(
        store,
        host,
        events,
        tasks,
        build,
        garbage,
        default_shape=shape,
        max_active=settings.max_runtime_snapshots,
        on_built=attention.set,
        retry=retry,
    )
    collect = StateCollector(
        store, host, events, most=settings.max_runtime_snapshots, caches=_caches(settings)
    )
    metrics = ManagerMetrics(events, collect)
    tasks.observe_failures(metrics.failed)
    warm_pool = WarmPool(store, host, settings.standby_vms, shape, metrics.failed)
    events.observe(warm_pool.on_event)
    boot = BootVm(
        store,
        host,
        runner,
        warm_pool,
        BootTimeouts(settings.warm_boot_timeout_s, settings.cold_boot_timeout_s),
    )
    health = SnapshotHealth(store, events, lambda _: attention.set(), check_image.suspect)
    kept = housekeeping_parts(
        settings, store, host, runner, events, tasks, health, collecting, metrics.failed
    )
    demand = WatchDemand(
        store,
        host,
        events,
        snapshots,
        DemandPolicy(settings.shape_demand_boots, settings.shape_demand_window_s),
        settings.max_runtime_snapshots,
    )
    snapshot_reconciler = SnapshotReconciler(
        store,
        host,
        events,
        snapshots,
        attention,
        ReconcilerConfig(settings.auto_rebuild, retry),
        metrics.failed,
    )
    admission = BootAdmission(max(1, (os.cpu_count() or 1) // 2))
    warm_config = WarmBootConfig(shape, settings.snapshot_wait_s)
    bring_up = BringUp(
        store,
        host,
        events,
        boot,
        prepare,
        warm_pool,
        admission,
        WarmBoot(store, host, events, boot, health, warm_config, attention.set),
        health,
        demand,
        archives,
    )

    async def remove(container_id: UUID) -> None:
        await containers.remove(container_id)

    stalled = ResumeStalled(store, host, events, tasks)
    events.observe(stalled.on_event)
    watch = WatchContainer(store, host, events, tasks, remove)
    unresponsive = KeepUnresponsive(store, host, events, tasks, watch, unsettled)
    events.observe(unresponsive.on_event)
    containers = Containers(
        *(store, host, events, tasks, bring_up, admission, watch, archives, garbage),
        unresponsive,
        shape,
    )

    images = RuntimeImages(
        store,
        host,
        events,
        garbage,
        collecting.image_folders,
        snapshots,
        check_image,
        auto_snapshot=settings.auto_snapshot,
    )
    given = ConfiguredImage(store, images, events, _given_files(settings))

    async def more_checks() -> Sequence[Check]:
        checks = [*unsettled.checks(), *await unreadable_rows(store), *await given.checks()]
        return [*checks, *await _more_checks(settings)]

    services = Services(
        images=images,
        snapshots=snapshots,
        containers=containers,
        archives=archives,
        events=events,
        system=System(
            host,
            all_hypervisors(settings),
            shape,
            more_checks,
            store,
            metrics.boots,
            warm_pool,
        ),
        forms=kept.forms,
        garbage=garbage,
        workers=worker.workers,
        metrics=metrics,
    )
    reconcile = Reconcile(
        store,
        host,
        runner,
        (boot.saga, renew.saga, build.saga, *kept.sagas, *worker.sagas),
        containers,
        snapshots,
        watch,
        stalled,
        garbage,
        events,
        unresponsive,
        unsettled,
    )
    return _Parts(services, reconcile, metrics, warm_pool, demand, snapshot_reconciler, kept, given)


def _retry(settings: Settings) -> RetryPolicy:
    return RetryPolicy(settings.rebuild_attempts, settings.rebuild_pause_s)


def _caches(settings: Settings) -> Mapping[str, Path]:
    """What may be thrown away, and is looked at for its size."""
    root = settings.storage_root
    return {
        "archives": root / "archives",
        "checkpoint-archives": root / "checkpoint-archives",
        "memory": root / "cache" / "memory",
    }


def _given_files(settings: Settings) -> ConfiguredFiles | None:
    kernel, rootfs = settings.container_runtime_kernel, settings.container_runtime_rootfs
    if kernel is None or rootfs is None:
        return None
    return ConfiguredFiles(kernel, rootfs, settings.container_runtime_initrd)


async def serve(settings: Settings) -> None:
    """Run the service until SIGINT or SIGTERM."""
    configure_logging(settings.log_format, settings.log_level)
    for mistake in not_settings(os.environ):
        log.warning(mistake)
    check_bind(settings.host, settings.tokens)
    # Before anything is touched: who is the second one here is told so at once.
    with (
        hold_host(settings),
        listeners(
            settings.host, settings.port, settings.socket_at, settings.socket_group
        ) as sockets,
    ):
        await _serve(settings, sockets)


async def _serve(settings: Settings, sockets: list[socket.socket]) -> None:
    path = settings.socket_at(sockets[0].getsockname()[1])
    descriptors = raise_descriptor_limit()
    limits = HttpLimits.within(settings.max_connections, descriptors)
    async with _running(settings) as manager:
        app = create_app(
            manager.services,
            tokens=settings.tokens,
            idempotency=manager.store.idempotency,
            worker_of=manager.tokens.owner,
            advice=who_may(path, settings.socket_group),
        )
        server = HttpServer(app, limits=limits, on_listening=partial(notify, READY))
        log.info(f"warmboot listens on http://{settings.host}:{settings.port} and unix://{path}")
        await server.serve(sockets)
        notify(STOPPING)


async def local_doctor(settings: Settings) -> Sequence[Check]:
    """The checks of ``warmboot doctor``, without a running manager."""
    checks = await doctor.examine(
        all_hypervisors(settings),
        settings.storage_root,
        settings.disk_floor_mib << 20,
        simulated=settings.hypervisor == "simulated",
    )
    return [*checks, *await _more_checks(settings)]


async def _more_checks(settings: Settings) -> Sequence[Check]:
    return [
        socket_check(settings.socket_at(settings.port), settings.socket_group),
        *await worker_checks(settings),
    ]


__all__ = ["Running", "local_doctor", "running", "serve"]
