"""Settings in, a running service out: the parts of a manager, wired, started and served."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from warmboot.api.app import create_app
from warmboot.api.http.limits import HttpLimits, raise_descriptor_limit
from warmboot.api.http.listeners import listeners, socket_check, who_may
from warmboot.api.http.server import HttpServer
from warmboot.api.middleware.auth import check_bind
from warmboot.bootstrap.containers import ContainerParts, wire_containers
from warmboot.bootstrap.core import Core
from warmboot.bootstrap.engines import EngineParts, wire_engines
from warmboot.bootstrap.garbage import GarbageParts, wire_garbage
from warmboot.bootstrap.host import all_hypervisors, host_agent
from warmboot.bootstrap.images import ImageParts, wire_image_checks, wire_images
from warmboot.bootstrap.lock import hold_host
from warmboot.bootstrap.logs import configure_logging
from warmboot.bootstrap.metrics import wire_metrics
from warmboot.bootstrap.service_manager import READY, STOPPING, longer_s, notify
from warmboot.bootstrap.snapshots import SnapshotParts, wire_snapshots
from warmboot.bootstrap.tenants import VmParts, wire_folders, wire_tenants, wire_vms
from warmboot.bootstrap.workers import WorkerParts, wire_workers, worker_checks
from warmboot.host.agent import HostAgent
from warmboot.manager import doctor
from warmboot.manager.check_storage_owner import check_storage_owner
from warmboot.manager.core.admission import GUESTS_AT_ONCE, BootAdmission
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.reconcile_failures import ReconcileFailures
from warmboot.manager.core.saga import Hook, SagaRunner
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.core.unreadable_owners import unreadable_rows
from warmboot.manager.core.uploads import Uploads
from warmboot.manager.core.worker_tokens import WorkerTokens
from warmboot.manager.engines.tcp.certificate_checks import certificate_checks
from warmboot.manager.garbage.expire_records import keep_expiring
from warmboot.manager.metrics import ManagerMetrics
from warmboot.manager.protocols import Check, Services
from warmboot.manager.reconcile import Reconcile
from warmboot.manager.report_repairs import keep_reporting
from warmboot.manager.system import System
from warmboot.manager.tenants.park_by_policy import AT_SHUTDOWN_S, UNDOING_S
from warmboot.settings import Settings, earlier_names, not_settings
from warmboot.store import Store
from warmboot.store.database_lock import lock_database

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
    """A manager over its storage; on leaving it lets go of its VMs, which run on.

    It listens nowhere, and so has its engines' sockets in its storage.
    """
    with hold_host(settings):
        async with _running(settings, settings.storage_root / "run", hook) as manager:
            yield manager


@asynccontextmanager
async def _running(
    settings: Settings, run_folder: Path, hook: Hook | None = None
) -> AsyncIterator[Running]:
    host = await host_agent(settings, run_folder)
    url = settings.effective_database_url
    async with lock_database(url, _who(settings)), Store.open(url) as store:
        await check_storage_owner(store, settings.storage_root)
        core = Core(
            settings,
            store,
            host,
            SagaRunner(store, hook),
            EventLog(store),
            Tasks(),
            ReconcileFailures(),
            Uploads(host.storage),
            BootAdmission(GUESTS_AT_ONCE),
        )
        core.events.observe(core.reconcile_failures.on_event)
        async with wire_workers(core) as workers:
            parts = _wire(core, workers)
            await core.events.start()
            await parts.metrics.start()
            came_up = False
            try:
                await parts.reconcile()
                await workers.reconcile()
                await parts.start_policies()
                await parts.snapshots.demand.start()
                _keep_going(core, parts)
                await parts.images.configured.register()
                came_up = True
                yield Running(_services(core, parts), store, host, workers.tokens)
            finally:
                try:
                    await workers.stop()
                finally:
                    await host.vms.stop_waking()
                    try:
                        if came_up:  # or what runs on would be parked at each start that fails
                            await parts.stop_policies()
                    finally:
                        await core.tasks.stop()
                        await host.stop()


def _who(settings: Settings) -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}, {settings.storage_root}"


@dataclass(frozen=True, slots=True)
class _Parts:
    metrics: ManagerMetrics
    garbage: GarbageParts
    images: ImageParts
    snapshots: SnapshotParts
    vms: VmParts
    containers: ContainerParts
    engines: EngineParts
    workers: WorkerParts
    reconcile: Reconcile

    async def start_policies(self) -> None:
        """Wake those that were parked because a manager stopped."""
        for noun in (self.engines.engines, self.containers.containers):
            await noun.by_policy.start()

    async def stop_policies(self) -> None:
        """Park those that ask for it, whom nobody wakes any more."""
        self.engines.users.stop()
        for noun in (self.engines.engines, self.containers.containers):
            notify(longer_s(AT_SHUTDOWN_S + UNDOING_S))
            await noun.by_policy.stop()


def _wire(core: Core, workers: WorkerParts) -> _Parts:
    metrics = wire_metrics(core)
    garbage = wire_garbage(core, workers)
    checks = wire_image_checks(core, garbage)
    snapshots = wire_snapshots(core, garbage, checks, workers, metrics.failed)
    vms = wire_vms(core, metrics)
    tenants = wire_tenants(core, checks, snapshots, vms)
    folders = wire_folders(core)
    containers = wire_containers(core, garbage, snapshots, tenants, folders)
    engines = wire_engines(core, garbage, snapshots, tenants, folders)
    images = wire_images(core, garbage, checks, snapshots.snapshots)
    reconcile = Reconcile(
        core.store,
        core.host,
        core.runner,
        (
            vms.boot.saga,
            tenants.freeze.saga,
            containers.containers.forks.saga,
            containers.containers.parks.saga,
            containers.containers.exited.parks.saga,
            *snapshots.sagas,
            *engines.sagas,
        ),
        containers.containers,
        snapshots.snapshots,
        containers.watch,
        tenants.stalled,
        garbage.collect,
        core.events,
        containers.unresponsive,
        core.reconcile_failures,
        engines.reconcile,
        tenants.pauses,
    )
    return _Parts(metrics, garbage, images, snapshots, vms, containers, engines, workers, reconcile)


def _keep_going(core: Core, parts: _Parts) -> None:
    """What runs in the background for as long as the manager does."""
    failed = parts.metrics.failed
    reconcile, housekeeping = parts.snapshots.reconciler, parts.snapshots.housekeeping
    expire = partial(keep_expiring, core.store, failed)
    put_away = partial(parts.containers.containers.exited.keep_putting_away, failed)
    keep_going = core.tasks.keep_going
    keep_going(Work.RECONCILE_SNAPSHOTS, "look-after-snapshots", reconcile)
    keep_going(Work.WARM_POOL, "warm-pool", parts.vms.warm_pool.keep_filled)
    keep_going(Work.HOUSEKEEPING, "housekeeping", housekeeping)
    keep_going(Work.EXPIRE_RECORDS, "forget-old", expire)
    keep_going(Work.PUT_AWAY_EXITED, "put-away-exited", put_away)
    for noun in (parts.engines.engines, parts.containers.containers):
        park_idle = partial(noun.by_policy.keep_parking, failed)
        keep_going(Work.PARK_IDLE, f"park-idle-{noun.by_policy.kind}", park_idle)
    if (network := core.host.network) is not None:
        reporting = partial(keep_reporting, network.repaired, core.events, failed)
        keep_going(Work.NETWORK_RULES, "network-rules", reporting)


def _services(core: Core, parts: _Parts) -> Services:
    settings, configured = core.settings, parts.images.configured

    async def more_checks() -> Sequence[Check]:
        checks = [*core.reconcile_failures.checks(), *await unreadable_rows(core.store)]
        checks += await certificate_checks(core.store, core.host.certificates)
        return [*checks, *await configured.checks(), *await _more_checks(settings)]

    return Services(
        images=parts.images.images,
        snapshots=parts.snapshots.snapshots,
        containers=parts.containers.containers,
        files=parts.containers.files,
        archives=parts.containers.archives,
        events=core.events,
        system=System(
            core.host,
            all_hypervisors(settings),
            settings.default_shape,
            more_checks,
            core.store,
            parts.metrics.boots,
            parts.vms.warm_pool,
        ),
        forms=parts.snapshots.forms,
        garbage=parts.garbage.collect,
        pages=core.store.pages,
        engines=parts.engines.engines,
        workers=parts.workers.workers,
        metrics=parts.metrics,
    )


async def serve(settings: Settings) -> None:
    """Run the service until SIGINT or SIGTERM."""
    configure_logging(settings.log_format, settings.log_level)
    for mistake in (*not_settings(os.environ), *earlier_names(os.environ)):
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
    port = sockets[0].getsockname()[1]
    path = settings.socket_at(port)
    descriptors = raise_descriptor_limit()
    limits = HttpLimits.within(settings.max_connections, descriptors)
    async with _running(settings, settings.run_folder(port)) as manager:
        app = create_app(
            manager.services,
            tokens=settings.tokens,
            idempotency=manager.store.idempotency,
            worker_of=manager.tokens.owner,
            advice=who_may(path, settings.socket_group),
            largest=manager.host.capacity().largest(settings.default_shape),
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
