"""The only place where parts are wired: settings in, a running service out."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import structlog
import uvicorn

from warmboot.api.access import check_bind
from warmboot.api.app import create_app
from warmboot.bootstrap_housekeeping import Collecting, Kept, housekeeping_parts
from warmboot.bootstrap_workers import WorkerParts, worker_checks, worker_parts
from warmboot.host.agent import HostAgent, HostConfig
from warmboot.host.network import Network, NetworkConfig
from warmboot.host.snapshot_files import SnapshotFiles
from warmboot.host.vm_files import VMM_GID
from warmboot.hypervisors.base import Hypervisor
from warmboot.hypervisors.firecracker import Firecracker, FirecrackerConfig
from warmboot.hypervisors.qemu import Qemu, QemuConfig
from warmboot.hypervisors.qemu.config import Machine
from warmboot.hypervisors.simulated import Simulated, SimulatedConfig
from warmboot.manager import doctor
from warmboot.manager.archives import ArchiveFiles
from warmboot.manager.boot_vm import BootTimeouts, BootVm
from warmboot.manager.bring_up import BringUp
from warmboot.manager.build_snapshot import BuildSnapshot
from warmboot.manager.containers import Containers
from warmboot.manager.event_log import EventLog
from warmboot.manager.forget_old import keep_forgetting
from warmboot.manager.look_after_snapshots import LookAfterConfig, LookAfterSnapshots
from warmboot.manager.metrics import Look, ManagerMetrics
from warmboot.manager.plan_rebuilds import RetryPolicy
from warmboot.manager.ports import Check, Services
from warmboot.manager.reconcile import Reconcile
from warmboot.manager.runtime_images import RuntimeImages
from warmboot.manager.runtime_snapshots import RuntimeSnapshots
from warmboot.manager.saga import Hook, SagaRunner
from warmboot.manager.shape_demand import DemandPolicy
from warmboot.manager.snapshot_health import SnapshotHealth
from warmboot.manager.stand_by import StandBy
from warmboot.manager.system import System
from warmboot.manager.tasks import Tasks
from warmboot.manager.warm_boot import WarmBoot, WarmBootConfig
from warmboot.manager.watch_container import WatchContainer
from warmboot.manager.watch_demand import WatchDemand
from warmboot.manager.worker_tokens import WorkerTokens
from warmboot.settings import Settings
from warmboot.store import Store

log = structlog.get_logger("warmboot")


@dataclass(frozen=True, slots=True)
class Running:
    """A manager that has reconciled and takes requests."""

    services: Services
    store: Store
    host: HostAgent
    tokens: WorkerTokens


def hypervisor_of(settings: Settings) -> Hypervisor:
    """The chosen driver; ``auto`` is QEMU, which runs everywhere."""
    if settings.hypervisor == "simulated":
        return Simulated(SimulatedConfig(overrides=settings.simulation))
    if settings.hypervisor == "firecracker":
        return Firecracker(FirecrackerConfig(binary=settings.firecracker_binary))
    return Qemu(
        QemuConfig(
            binary=settings.qemu_binary,
            machine=Machine(settings.qemu_machine),
            accelerator=settings.qemu_accelerator,
        )
    )


def all_hypervisors(settings: Settings) -> Sequence[Hypervisor]:
    return (
        hypervisor_of(settings.model_copy(update={"hypervisor": "qemu"})),
        hypervisor_of(settings.model_copy(update={"hypervisor": "firecracker"})),
    )


async def _network_of(settings: Settings, hypervisor: Hypervisor) -> Network | None:
    if not (await hypervisor.probe()).capabilities.network:
        return None
    return Network(
        NetworkConfig(
            state_dir=settings.storage_root / "network",
            prefix=settings.network_prefix,
            subnet=settings.network_subnet,
            pool_size=settings.network_pool_size,
            resolv_conf=settings.resolv_conf,
            publish_address=settings.publish_address,
            uid_base=VMM_GID,
        )
    )


@asynccontextmanager
async def running(settings: Settings, hook: Hook | None = None) -> AsyncIterator[Running]:
    """A manager over its storage; on leaving it lets go of its VMs, which run on."""
    root = settings.storage_root
    root.mkdir(parents=True, exist_ok=True)
    hypervisor = hypervisor_of(settings)
    host = HostAgent(
        HostConfig(root, settings.disk_floor_mib << 20, settings.cache_budget_mib << 20),
        hypervisor,
        await _network_of(settings, hypervisor),
        SnapshotFiles(root / "runtime-snapshots", VMM_GID),
    )
    async with Store.open(settings.effective_database_url) as store:
        events, tasks, runner = EventLog(store), Tasks(), SagaRunner(store, hook)
        async with worker_parts(settings, store, runner, events, tasks) as worker:
            parts = _wire(settings, store, host, runner, events, tasks, worker)
            await events.start()
            await parts.metrics.start()
            try:
                await parts.reconcile()
                await worker.reconcile()
                await parts.demand.start()
                tasks.start("look-after-snapshots", parts.look_after())
                tasks.start("stand-by", parts.standby.keep_filled())
                tasks.start("housekeeping", parts.kept.housekeeping())
                tasks.start("forget-old", keep_forgetting(store))
                await _register_given_image(settings, parts.services)
                yield Running(parts.services, store, host, worker.tokens)
            finally:
                try:
                    await worker.stop()
                finally:
                    await tasks.stop()
                    await host.stop()


@dataclass(frozen=True, slots=True)
class _Parts:
    services: Services
    reconcile: Reconcile
    metrics: ManagerMetrics
    standby: StandBy
    demand: WatchDemand
    look_after: LookAfterSnapshots
    kept: Kept


def _wire(
    settings: Settings,
    store: Store,
    host: HostAgent,
    runner: SagaRunner,
    events: EventLog,
    tasks: Tasks,
    worker: WorkerParts,
) -> _Parts:
    shape = settings.default_shape
    archives = ArchiveFiles(settings.storage_root / "archives")
    collecting = Collecting(settings, store, host, runner, events)
    garbage = collecting.garbage
    attention, retry = asyncio.Event(), _retry(settings)
    build = BuildSnapshot(
        store,
        host,
        runner,
        events,
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
    standby = StandBy(store, host, settings.standby_vms, shape)
    events.observe(standby.on_event)
    boot = BootVm(
        store,
        host,
        runner,
        standby,
        BootTimeouts(settings.warm_boot_timeout_s, settings.cold_boot_timeout_s),
    )
    health = SnapshotHealth(store, events, lambda _: attention.set())
    kept = housekeeping_parts(settings, store, host, runner, events, tasks, health, collecting)
    demand = WatchDemand(
        store,
        host,
        events,
        snapshots,
        DemandPolicy(settings.shape_demand_boots, settings.shape_demand_window_s),
        settings.max_runtime_snapshots,
    )
    look_after = LookAfterSnapshots(
        store,
        host,
        events,
        snapshots,
        attention,
        LookAfterConfig(settings.auto_rebuild, retry),
    )
    warm_config = WarmBootConfig(shape, settings.snapshot_wait_s)
    bring_up = BringUp(
        store,
        host,
        events,
        boot,
        standby,
        WarmBoot(store, host, events, boot, health, warm_config, attention.set),
        health,
        demand,
        archives,
    )

    async def remove(container_id: UUID) -> None:
        await containers.remove(container_id)

    watch = WatchContainer(store, host, events, tasks, remove)
    containers = Containers(store, host, events, tasks, bring_up, watch, archives, garbage, shape)
    metrics = ManagerMetrics(
        events,
        Look(
            store,
            host,
            events,
            most=settings.max_runtime_snapshots,
            caches=_caches(settings),
        ),
    )
    services = Services(
        images=RuntimeImages(
            store,
            host,
            events,
            garbage,
            collecting.image_folders,
            snapshots,
            auto_snapshot=settings.auto_snapshot,
        ),
        snapshots=snapshots,
        containers=containers,
        archives=archives,
        events=events,
        system=System(
            host,
            all_hypervisors(settings),
            shape,
            lambda: worker_checks(settings),
            store,
            metrics.boots,
            standby,
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
        (boot.saga, build.saga, *kept.sagas, *worker.sagas),
        containers,
        snapshots,
        watch,
        garbage,
    )
    return _Parts(services, reconcile, metrics, standby, demand, look_after, kept)


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


async def _register_given_image(settings: Settings, services: Services) -> None:
    """``CONTAINER_RUNTIME_KERNEL`` and ``CONTAINER_RUNTIME_ROOTFS`` are the default image."""
    kernel, rootfs = settings.container_runtime_kernel, settings.container_runtime_rootfs
    if kernel is None or rootfs is None:
        return
    if any(image.name == "default" for image in await services.images.list()):
        return
    await services.images.register(
        name="default", kernel=kernel, rootfs=rootfs, initrd=settings.container_runtime_initrd
    )


async def serve(settings: Settings) -> None:
    """Run the service until SIGINT or SIGTERM."""
    configure_logging(settings)
    check_bind(settings.host, settings.tokens)
    async with running(settings) as manager:
        app = create_app(
            manager.services,
            tokens=settings.tokens,
            idempotency=manager.store.idempotency,
            worker_of=manager.tokens.owner,
        )
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        log.info(f"warmboot listens on http://{settings.host}:{settings.port}")
        await server.serve()


class _Server(uvicorn.Server):
    """uvicorn ends the process by the signal that stopped it; we have VMs to let go of first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def local_doctor(settings: Settings) -> Sequence[Check]:
    """The checks of ``warmboot doctor``, without a running manager."""
    checks = await doctor.examine(
        all_hypervisors(settings), settings.storage_root, settings.disk_floor_mib << 20
    )
    return [*checks, *await worker_checks(settings)]


def configure_logging(settings: Settings) -> None:
    """One line an event on standard error: ``LEVEL message key=value``, or JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.log_format == "json":
        rendering: list[structlog.typing.Processor] = [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    else:
        rendering = [_spec_form]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _spec_form(_: object, __: str, event: structlog.typing.EventDict) -> str:
    """``<time> INFO message key=value``: the specification's form, time added."""
    level = str(event.pop("level", "info")).upper()
    level = "WARN" if level == "WARNING" else level
    time, message = event.pop("timestamp", ""), event.pop("event", "")
    error = event.pop("exc_info", None)
    rest = " ".join(f"{key}={value!r}" for key, value in event.items())
    lines = [f"{time} {level} {message} {rest}".rstrip()]
    if isinstance(error, BaseException):
        lines += structlog.processors.format_exc_info(None, "", {"exc_info": error})[
            "exception"
        ].splitlines()
    return "\n".join(lines)


__all__ = ["Running", "configure_logging", "local_doctor", "running", "serve"]
