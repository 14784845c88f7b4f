"""Brings an engine from ``creating`` to ``running``: boots its VM, and hands its Docker over.

    VM (see boot_tenant) ─▶ socket ─▶ running ─▶ hand-over ─▶ nothing of ours is left in its Docker,
                                                              what ran before its stop runs,
                                                              and its ports are published

The hand-over takes longer than the boot. Meanwhile the front answers who asks whether there is a
Docker, and keeps those waiting who want to see or do something in it.

It may be run again for an engine that another manager began: what is there is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootAdmission, BootTicket
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.retry_until_stored import retry_until_stored, store_state
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.engines.early_socket import EarlySocket
from warmboot.manager.engines.engine_containers import EngineContainers
from warmboot.manager.engines.engine_disks import EngineDisks
from warmboot.manager.engines.engine_ports import EnginePorts
from warmboot.manager.engines.engine_sockets import EngineSockets, labels_of
from warmboot.manager.folders.tenant_folders import TenantFolders
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.tenants.boot_tenant import BootTenant, in_words
from warmboot.manager.vms.slots import slot_of
from warmboot.model.errors import IllegalTransition, NotFound, WarmbootError
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.store import Store
from warmboot.system.concurrency import end

log = structlog.get_logger(__name__)

T = TypeVar("T")

PORTS_TIMEOUT_S = 30.0
"""How long who waits for an engine waits for the ports of what came up with it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be brought up, its place among the boots, since when; whole, if just created."""

    engine_id: UUID
    ticket: BootTicket
    watch: Stopwatch = field(default_factory=Stopwatch)
    fresh: Engine | None = None


class BringUpEngine:
    """Call it with what was asked for; it returns when the engine runs or has failed.

    ``unwatch`` an engine whose VM is about to be ended by us.
    """

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        boot: BootTenant,
        admission: BootAdmission,
        health: SnapshotHealth,
        sockets: EngineSockets,
        containers: EngineContainers,
        disks: EngineDisks,
        folders: TenantFolders,
        ports: EnginePorts,
        unwatch: Callable[[UUID], Awaitable[None]],
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._boot = boot
        self._admission = admission
        self._health = health
        self._sockets = sockets
        self._containers = containers
        self._disks = disks
        self._folders = folders
        self._ports = ports
        self._unwatch = unwatch

    async def __call__(self, asked: Asked) -> None:
        try:
            engine = asked.fresh or await self._found(asked.engine_id)
        except NotFound:  # deleted before its turn came
            return
        running = engine if engine.state is EngineState.RUNNING else None
        if engine.state is EngineState.CREATING:
            early = EarlySocket(self._sockets, engine)
            try:
                booting = self._boot_it(engine, asked, early)
                running = await self._attempt(engine, asked.watch, booting)
            finally:
                await early.end()
        # As it is now: one that has run keeps its disk, whatever happens.
        if running is not None and not running.handed_over:
            await self._attempt(running, asked.watch, self._hand_over(running, asked.watch))

    async def _attempt(
        self, engine: Engine, watch: Stopwatch, work: Coroutine[Any, Any, T]
    ) -> T | None:
        try:
            return await work
        except (WarmbootError, OSError) as error:
            await self._fail(engine, in_words(error), watch)
        except Exception as error:  # a bug, too, may not leave it ``creating`` for ever
            log.exception(f"Engine {engine.id} met a bug")
            await self._fail(engine, in_words(error), watch)
        return None

    async def _boot_it(self, engine: Engine, asked: Asked, early: EarlySocket) -> Engine:
        watch, fresh = asked.watch, asked.fresh is not None
        try:
            record, warmed = await self._boot(
                engine, watch, asked.ticket, fresh=fresh, onlooker=early
            )
            if warmed is not None:
                await self._health.succeeded(warmed.snapshot, warmed.boot_s)
        finally:
            await early.settled()  # or it would be shown as it was
        if engine.spec.folders:
            await self._boot.tell(engine, "folders")
            with watch.stage("folders"):
                await self._folders.bring(engine, record)
        # Before it is told that it runs: whoever hears of it finds the socket.
        with watch.stage("socket"):
            await self._host.vms.lead_to_host(record.id, slot_of(record), engine.spec.host_ports)
            await self._sockets.show(
                replace(engine, state=EngineState.RUNNING, vm_id=record.id, error=None)
            )
        running = await store_state(
            self._store,
            self._events,
            engine.id,
            EngineState.RUNNING,
            told=lambda running: {
                "boot_method": running.boot_method,
                "seconds": round(watch.elapsed_s, 4),
                "stages": watch.event_data,
            },
            stages=watch.stages,
            started_at=engine.started_at or datetime.now(UTC),
            finished_at=None,
            error=None,
        )
        log.info(f"Engine {engine.id} runs after {watch.elapsed_s:.2f}s: {watch.line}")
        # Who waits for a first answer gets it before others take the processors for a while.
        await self._sockets.greeted(running)
        asked.ticket.over()
        return running

    async def _hand_over(self, engine: Engine, watch: Stopwatch) -> None:
        assert engine.vm_id is not None
        before = len(watch.stages)
        if engine.spec.disk_mib is not None:
            await self._boot.tell(engine, "grow-disk")
            with watch.stage("grow-disk"):
                await self._disks.grow(engine)
        await self._boot.tell(engine, "hand-over")
        ports = partial(self.publish_ports, engine.id, engine.vm_id)
        publishing = asyncio.ensure_future(ports()) if _runs_on(engine) else None
        try:
            with watch.stage("hand-over"):
                await self._host.vms.hand_over(engine.vm_id, labels_of(engine))
                await self._containers.start(engine)
            if engine.goes_on:
                with watch.stage("ports"):
                    await (publishing or ports())
        finally:
            if publishing is not None:
                await end(publishing)
        stages = (*engine.stages, *watch.stages[before:])
        handed_over = await retry_until_stored(
            f"that engine {engine.id} is handed over",
            lambda: self._store.engines.update(
                engine.id, handed_over=True, stages=stages, restarts=()
            ),
        )
        await self._sockets.show(handed_over)
        self._events.wake(engine.id)

    async def publish_ports(self, engine_id: UUID, vm_id: str) -> None:
        """What came up with it. What is not published in time is a moment later: who follows its
        containers does it, too."""
        try:
            async with asyncio.timeout(PORTS_TIMEOUT_S):
                docker = self._host.vms.link(vm_id).docker
                await self._ports.publish_running(engine_id, docker)
        except Exception as error:  # noqa: BLE001 (who follows its containers meets it, too)
            why = str(error) or "it takes too long"
            log.warning(f"Engine {engine_id} is there before all of its ports are", why=why)

    async def _found(self, engine_id: UUID) -> Engine:
        return await retry_until_stored(
            f"engine {engine_id}", lambda: self._store.engines.get(engine_id)
        )

    async def _fail(
        self,
        engine: Engine,
        error: WarmbootError,
        watch: Stopwatch,
    ) -> None:
        """The engine could not be brought up: its VM goes, and it says why."""
        if engine.state is EngineState.RUNNING and engine.vm_id is not None:
            if not await self._host.vms.is_alive(engine.vm_id):
                return  # that is why; and who watches it says so
            await self._unwatch(engine.id)  # or the end of its VM would be taken for the cause
        log.error(f"Engine {engine.id} failed: {error.brief}", details=error.details)
        what = f"the failure of engine {engine.id}"
        await retry_until_stored(what, lambda: self._boot.clear_away(engine))
        failed = replace(engine, state=EngineState.FAILED, error=error.as_dict())
        await self._sockets.show_if_possible(failed)  # before it is told, as above
        try:
            await store_state(
                self._store,
                self._events,
                engine.id,
                EngineState.FAILED,
                told=lambda failed: {
                    "error": error.as_dict(),
                    "stage": watch.last_stage,
                    "reason": failed.fallback_reason,
                },
                error=error.as_dict(),
                vm_id=None,
                finished_at=datetime.now(UTC),
            )
        except (IllegalTransition, NotFound):  # it is being deleted
            return


def _runs_on(engine: Engine) -> bool:
    """Whether its containers run from the first moment on, as those did that it is a fork of."""
    return bool(engine.spec.snapshot) and engine.boot_method is BootMethod.WARM


def bring_up_key(engine_id: UUID) -> str:
    """The key of the task that brings an engine up."""
    return f"bring-up {engine_id}"
