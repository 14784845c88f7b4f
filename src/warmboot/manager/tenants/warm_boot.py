"""The warm boot: restores a version of a snapshot; if that fails, tries another one.

with its image (see ``build_image_snapshot``), if such a one is ready; else, or if that fails:

choose ─▶ Use ──▶ restore ──▶ Docker answers: counted as a success ──▶ Warmed
  ▲        │         │ failed
  │        │         ▼
  │        │      its fault, and not the host's (a full disk)? ─ no ─▶ not counted
  │        │      does it (still) fit this host? ─ no ─▶ not counted: it is to be migrated
  │        │         │ yes: counted as a failure
  └────────┼─────────┘ another version is ready, at most three in all
           └▶ Wait, Fallback ──▶ cold, with the reason of the last attempt, or of the choice
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from warmboot.docker.references import with_tag
from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import BootTicket
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.snapshots.snapshot_health import SnapshotHealth
from warmboot.manager.tenants.choose_snapshot import (
    Candidate,
    Fallback,
    Use,
    Wait,
    choose_snapshot,
)
from warmboot.manager.vms.boot_vm import BootVm, Onlooker
from warmboot.model.errors import (
    Conflict,
    DiskFull,
    GuestError,
    HostError,
    HypervisorError,
    NetworkError,
    NotFound,
    SnapshotDamaged,
    WarmbootError,
)
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState, requirements_of
from warmboot.model.shapes import Shape
from warmboot.model.snapshot_fit import FitKind, fit_of, fit_of_ready
from warmboot.model.tenants.boot import BootAttempt, BootPolicy, FallbackReason, Tenant
from warmboot.model.vm import VmRecord
from warmboot.store import Store
from warmboot.system.disks import os_error

log = structlog.get_logger(__name__)

MOST_ATTEMPTS = 3
"""Versions that one boot tries before it goes cold: each may take the whole warm timeout."""

_MISFITS = (FallbackReason.VERSION_MISMATCH, FallbackReason.HOST_MISMATCH)


@dataclass(frozen=True, slots=True)
class WarmBootConfig:
    default_shape: Shape
    snapshot_wait_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """A VM in which Docker has answered; ``boot_s`` from the choice of ``snapshot`` until then."""

    record: VmRecord
    snapshot: RuntimeSnapshot
    boot_s: float


@dataclass(frozen=True, slots=True)
class _Failed:
    snapshot: RuntimeSnapshot
    reason: FallbackReason
    details: str


class WarmBoot:
    """Call it with a tenant; ``on_misfit`` is told that a snapshot does not fit this host."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        boot: BootVm,
        health: SnapshotHealth,
        config: WarmBootConfig,
        on_misfit: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._boot = boot
        self._health = health
        self._config = config
        self._on_misfit = on_misfit

    async def __call__(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        watch: Stopwatch,
        ticket: BootTicket,
        onlooker: Onlooker,
    ) -> Warmed | Fallback:
        if tenant.boot is BootPolicy.COLD:
            return Fallback(FallbackReason.REQUESTED)
        failed: list[_Failed] = []
        began_s = watch.elapsed_s
        prepared = await self._with_image(tenant, image)
        if prepared is not None:
            outcome = await self._attempt(tenant, image, prepared, watch, ticket, onlooker)
            if isinstance(outcome, VmRecord):
                return Warmed(outcome, prepared, watch.elapsed_s - began_s)
            failed.append(outcome)
            await self._note(tenant, failed)
        while len(failed) < MOST_ATTEMPTS:
            with watch.stage("snapshot"):
                choice = await self._choose(tenant, image, failed, ticket)
            if not isinstance(choice, Use):
                break
            began_s = watch.elapsed_s
            outcome = await self._attempt(tenant, image, choice.snapshot, watch, ticket, onlooker)
            if isinstance(outcome, VmRecord):
                boot_s = watch.elapsed_s - began_s
                return Warmed(outcome, choice.snapshot, boot_s)
            failed.append(outcome)
            await self._note(tenant, failed)
        if not failed:
            assert isinstance(choice, Fallback)
            if choice.reason in _MISFITS:
                self._on_misfit()
            return choice
        return Fallback(failed[-1].reason, failed[-1].details)

    async def _attempt(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        snapshot: RuntimeSnapshot,
        watch: Stopwatch,
        ticket: BootTicket,
        onlooker: Onlooker,
    ) -> VmRecord | _Failed:
        try:
            return await self._boot.warm(tenant, image, snapshot, watch, ticket, onlooker)
        except SnapshotDamaged as error:
            reason = FallbackReason.SNAPSHOT_DAMAGED
            return await self._count(tenant, snapshot, reason, error)
        except HypervisorError as error:
            reason = FallbackReason.RESTORE_FAILED
            return await self._count(tenant, snapshot, reason, error)
        except GuestError as error:
            reason = FallbackReason.DOCKER_NOT_VERIFIED
            return await self._count(tenant, snapshot, reason, error)
        except (Conflict, NotFound) as error:  # it was deleted between the choice and the lease
            return await self._failed(tenant, snapshot, FallbackReason.NO_SNAPSHOT, error)
        except NetworkError:  # a cold boot needs a network, too
            raise
        except (HostError, DiskFull) as error:
            return await self._spared(tenant, snapshot, error)
        except OSError as error:
            return await self._spared(tenant, snapshot, os_error(error))

    async def _spared(
        self, tenant: Tenant, snapshot: RuntimeSnapshot, error: WarmbootError
    ) -> _Failed:
        """No fault of the snapshot's, and not counted; unless it was damaged just now."""
        try:
            await self._host.snapshots.check(snapshot.snapshot_path)
        except SnapshotDamaged as damage:
            reason = FallbackReason.SNAPSHOT_DAMAGED
            return await self._count(tenant, snapshot, reason, damage)
        except OSError as unreadable:  # the boot's own error says more
            log.warning("a snapshot could not be looked at", error=str(unreadable))
        return await self._failed(tenant, snapshot, FallbackReason.RESTORE_FAILED, error)

    async def _count(
        self,
        tenant: Tenant,
        snapshot: RuntimeSnapshot,
        reason: FallbackReason,
        error: WarmbootError,
    ) -> _Failed:
        """The hypervisor may have been exchanged under our feet: then the snapshot is not bad."""
        here = (await self._host.probe()).host
        agent = snapshot.metadata.get("agent_version")
        fit = fit_of_ready(requirements_of(snapshot), agent, here)
        if fit.kind is FitKind.NOT_HERE and not isinstance(error, SnapshotDamaged):
            self._on_misfit()
            version = fit.requirement == "hypervisor_version"
            mismatch = _MISFITS[0] if version else _MISFITS[1]
            return await self._failed(tenant, snapshot, mismatch, error, fit.why)
        failed = await self._failed(tenant, snapshot, reason, error)
        await self._health.failed(snapshot, error)
        return failed

    async def _failed(
        self,
        tenant: Tenant,
        snapshot: RuntimeSnapshot,
        reason: FallbackReason,
        error: WarmbootError,
        why: str = "",
    ) -> _Failed:
        """Told, whosever fault it is."""
        await self._events.emit(
            "runtime-snapshot.boot-failed",
            snapshot.id,
            **{tenant.kind: str(tenant.id)},
            reason=reason,
            error=error.as_dict(),
            version=snapshot.version,
        )
        details = why or ": ".join(part for part in (error.brief, error.details) if part)
        return _Failed(snapshot, reason, details)

    async def _note(self, tenant: Tenant, failed: list[_Failed]) -> None:
        attempts = tuple(
            BootAttempt(f.snapshot.id, f.snapshot.version, f.reason, f.details) for f in failed
        )
        last = failed[-1].snapshot
        what = f"Version {last.version} of a" if last.is_version else f"A prepared {last.image}, a"
        log.warning(
            f"{what} runtime snapshot failed "
            f"{tenant.kind} {tenant.id}: {attempts[-1].reason.phrase}"
        )
        await self._store.tenants(tenant.kind).update(tenant.id, boot_attempts=attempts)

    # -- choosing ------------------------------------------------------------------------------

    async def _with_image(self, tenant: Tenant, image: RuntimeImage) -> RuntimeSnapshot | None:
        """A usable one in which the tenant's image is, of its shape."""
        if tenant.image_reference is None:
            return None
        name, here = with_tag(tenant.image_reference), (await self._host.probe()).host
        shape = tenant.requested_shape or self._config.default_shape
        for one in await self._store.snapshots.with_image(image.id, name):
            if one.shape == shape and fit_of(one, here).usable:
                return one
        return None

    async def _choose(
        self, tenant: Tenant, image: RuntimeImage, failed: list[_Failed], ticket: BootTicket
    ) -> Use | Wait | Fallback:
        tried = {attempt.snapshot.id for attempt in failed}
        choice = await self._look(tenant, image, tried)
        if not isinstance(choice, Wait) or failed:
            return choice  # one that is made because of a failure is not waited for
        ticket.booted()
        await self._events.emit(
            f"{tenant.kind}.stage",
            tenant.id,
            stage="snapshot",
            waiting_for=str(choice.snapshot.id),
        )

        async def decided() -> Use | Fallback | None:
            again = await self._look(tenant, image, tried)
            return None if isinstance(again, Wait) else again

        found: Use | Fallback | None = await self._events.wait_for(
            decided, self._config.snapshot_wait_s
        )
        return found or Fallback(
            FallbackReason.SNAPSHOT_WAIT_TIMEOUT, f"after {self._config.snapshot_wait_s:g} s"
        )

    async def _look(
        self, tenant: Tenant, image: RuntimeImage, tried: set[UUID]
    ) -> Use | Wait | Fallback:
        here = (await self._host.probe()).host
        candidates = [
            Candidate(snapshot, requirements_of(snapshot))
            for snapshot in await self._store.snapshots.for_image(image.id)
            if snapshot.state is not SnapshotState.DELETED
        ]
        shape, default = tenant.requested_shape, self._config.default_shape
        return choose_snapshot(candidates, shape, default, here, random.random(), tried)
