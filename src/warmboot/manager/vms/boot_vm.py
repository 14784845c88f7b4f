"""Boots the VM of a container or an engine, warm or cold, as a saga.

    lease ─▶ network ─▶ machine ─▶ start ─▶ identity ─▶ docker
    the      a slot     folder,    boot or  the guest   Docker has
    snapshot            disk, row  restore  is itself   answered

The lease is the tenant's: its disk is an overlay on the snapshot's for as long as it lives.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Claimed
from warmboot.host.network import Slot
from warmboot.host.vm.boot_logs import last_lines
from warmboot.host.vm.vm_files import (
    DiskSource,
    disks_of,
    image_disks,
    kept_disk,
)
from warmboot.manager.core.admission import BootTicket
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.vms.identities import identity_of
from warmboot.manager.vms.warm_pool import Prepared, WarmPool
from warmboot.model.errors import GuestError, GuestUnreachable, NotFound, VmGone, WarmbootError
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import Tenant
from warmboot.model.vm import VmKind, VmRecord, VmSpec, new_vm_id
from warmboot.store import Store
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

T = TypeVar("T")

DOCKER_AT_ONCE_S = 2.0
"""How long a restored guest waits for its Docker by itself; then it is asked to wait on."""


@dataclass(frozen=True, slots=True)
class BootTimeouts:
    """Seconds until Docker must have answered."""

    warm_s: float = 30.0
    cold_s: float = 300.0


class Onlooker:
    """Is told at once of a VM that is booted, and keeps nobody waiting. This one does nothing."""

    def restored(self, record: VmRecord) -> None:
        """It runs, and is about to be its own self."""

    def answers(self, record: VmRecord) -> None:
        """Its Docker does."""

    def lost(self) -> None:
        """Nothing comes of it; there may be another one."""


@dataclass(slots=True)
class BootNotes:
    """The journaled notes of a VM's boot; its ``slot`` may have died since. ``holds``: the lease is
    older than the boot."""

    vm_id: str
    snapshot_id: UUID | None = None
    keeps_disk: bool = False
    holds: bool = False
    slot: Slot | None = None


@dataclass(slots=True)
class _Boot:
    """What is booted for whom, and what became of it so far. ``cold``: from its disk alone."""

    tenant: Tenant
    image: RuntimeImage
    shape: Shape
    watch: Stopwatch
    ticket: BootTicket
    onlooker: Onlooker
    snapshot: RuntimeSnapshot | None = None
    cold: bool = False
    holds: bool = False
    kept: VmRecord | None = None
    prepared: Prepared | None = None
    token: str = field(default_factory=partial(secrets.token_urlsafe, 32))
    record: VmRecord = field(init=False)
    claimed: Claimed = field(init=False)
    claimed_after_s: float = field(init=False)

    @property
    def restores(self) -> bool:
        return self.snapshot is not None and not self.cold

    def notes(self) -> BootNotes:
        vm_id = new_vm_id()
        if self.kept is not None:
            vm_id = self.kept.id
        elif self.prepared is not None:
            vm_id = self.prepared.spec.id
        snapshot_id = None if self.snapshot is None else self.snapshot.id
        return BootNotes(vm_id, snapshot_id, self.kept is not None, self.holds)


class BootVm:
    """``warm`` and ``cold`` return the record of a VM in which Docker has answered."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        warm_pool: WarmPool,
        timeouts: BootTimeouts,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._warm_pool = warm_pool
        self._timeouts = timeouts
        self.saga = Saga(
            "boot-vm",
            BootNotes,
            Step("lease", self._lease, self._unlease),
            Step("network", self._reserve),  # given back with the machine
            Step("machine", self._make, self._unmake),
            Step("start", self._start),
            Step("identity", self._claim),
            Step("docker", self._verify),
        )

    async def warm(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        snapshot: RuntimeSnapshot,
        watch: Stopwatch,
        ticket: BootTicket,
        onlooker: Onlooker,
    ) -> VmRecord:
        prepared = self._warm_pool.take(snapshot)
        boot = _Boot(
            tenant, image, snapshot.shape, watch, ticket, onlooker, snapshot, prepared=prepared
        )

        async def discard() -> None:
            if prepared is not None:  # the saga may have failed before it was its
                await self._warm_pool.discard(prepared)

        async with on_failure(discard):
            return await self._boot(boot)

    async def cold(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        watch: Stopwatch,
        ticket: BootTicket,
        onlooker: Onlooker,
        frozen: RuntimeSnapshot | None = None,
        *,
        holds: bool = False,
    ) -> VmRecord:
        """``frozen``: on the disk of that one, which is of a VM in use. ``holds``: the tenant holds
        it, whatever becomes of this."""
        boot = _Boot(tenant, image, tenant.shape, watch, ticket, onlooker, frozen, True, holds)
        return await self._boot(boot)

    async def again(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        kept: VmRecord,
        watch: Stopwatch,
        ticket: BootTicket,
        onlooker: Onlooker,
    ) -> VmRecord:
        """Cold, on the disk of its earlier VM, which died or was stopped."""
        return await self._boot(
            _Boot(tenant, image, kept.spec.shape, watch, ticket, onlooker, kept=kept)
        )

    async def parked(
        self,
        tenant: Tenant,
        image: RuntimeImage,
        moment: RuntimeSnapshot,
        watch: Stopwatch,
        ticket: BootTicket,
    ) -> VmRecord:
        """As it was in the ``moment``, which the tenant holds, whatever becomes of this."""
        return await self._boot(
            _Boot(tenant, image, moment.shape, watch, ticket, Onlooker(), moment, holds=True)
        )

    async def _boot(self, boot: _Boot) -> VmRecord:
        tenant, notes = boot.tenant, boot.notes()
        try:
            with on_failure(boot.onlooker.lost):
                await self._runner.run(self.saga, tenant.id, notes, boot)
        except (GuestError, VmGone) as error:
            if not boot.restores:
                await self._quote_console(error, tenant, notes.vm_id)
            raise
        return boot.record

    async def _quote_console(self, error: WarmbootError, tenant: Tenant, vm_id: str) -> None:
        """Let an error of a cold boot say what the guest said last."""
        logs = self._host.vms.boot_logs
        text = await logs.of_vm(vm_id) or await logs.kept(tenant.id)
        said = last_lines(text) or "(nothing)"
        error.details = f"{error.details}\nthe last that its guest said:\n{said}".strip()
        error.resolution = (
            "is this machine very busy, or without KVM? Raise MANAGER_COLD_BOOT_TIMEOUT_S; all "
            f"that the guest said: `{_console_of(tenant)}`"
        )

    # -- steps ---------------------------------------------------------------------------------

    async def _lease(self, _: BootNotes, boot: _Boot) -> None:
        if boot.snapshot is not None and not boot.holds:
            await self._store.snapshots.lease(boot.snapshot.id, str(boot.tenant.id))

    async def _unlease(self, tenant_id: UUID, notes: BootNotes) -> None:
        if notes.snapshot_id is not None and not notes.holds:
            await self._store.snapshots.release(str(tenant_id))

    async def _reserve(self, notes: BootNotes, boot: _Boot) -> None:
        # One that was taken but is not journaled yet is found unused at the next start.
        with boot.watch.stage("network"):
            prepared = boot.prepared
            notes.slot = prepared.slot if prepared else await self._host.vms.reserve_slot()

    async def _make(self, notes: BootNotes, boot: _Boot) -> None:
        with boot.watch.stage("disk"):
            spec = await self._spec(notes, boot)
            boot.record = VmRecord(
                id=spec.id,
                kind=boot.tenant.kind,
                owner_id=boot.tenant.id,
                spec=spec,
                token=boot.token,
                created_at=datetime.now(UTC),
                slot=None if notes.slot is None else notes.slot.as_dict(),
                snapshot_id=boot.kept.snapshot_id if boot.kept else notes.snapshot_id,
            )
            if boot.kept is None:
                await self._store.vms.add(boot.record)
            else:
                # Together: without a record the kept disk would be taken for a left-over.
                async with self._store.transaction():
                    await self._store.vms.remove(boot.kept.id)
                    await self._store.vms.add(boot.record)

    async def _spec(self, notes: BootNotes, boot: _Boot) -> VmSpec:
        source = await self._disks(boot)
        if boot.prepared is not None:
            return boot.prepared.spec
        return await self._host.vms.make(notes.vm_id, boot.image, boot.shape, notes.slot, source)

    async def _disks(self, boot: _Boot) -> DiskSource:
        if boot.kept is not None:
            return replace(image_disks(boot.image), keep=kept_disk(boot.kept.spec))
        if boot.snapshot is not None:
            path = boot.snapshot.snapshot_path
            manifest = await self._host.snapshots.check(path)
            disks = disks_of(path, manifest)
            anew = boot.cold and manifest.moment is not None
            return replace(disks, rootfs=boot.image.rootfs) if anew else disks
        return image_disks(boot.image)

    async def _unmake(self, tenant_id: UUID, notes: BootNotes) -> None:
        with contextlib.suppress(OSError):  # a full disk; the VM has to go all the same
            await self._host.vms.boot_logs.keep(tenant_id, notes.vm_id)
        await self._host.vms.destroy(notes.vm_id, notes.slot, keep_folder=notes.keeps_disk)
        if notes.keeps_disk:
            with contextlib.suppress(NotFound):
                await self._store.vms.update(notes.vm_id, handle=None, slot=None)
        else:
            await self._store.vms.remove(notes.vm_id)

    async def _start(self, _: BootNotes, boot: _Boot) -> None:
        record = boot.record
        if boot.snapshot is None or boot.cold:
            with boot.watch.stage("boot"):
                handle = await self._host.vms.boot(record.spec, boot.token)
        else:
            await boot.ticket.run()
            if boot.prepared is None:  # a restore takes its time, and little of ours
                boot.ticket.prepared()
            with boot.watch.stage("restore"):
                handle = await self._host.vms.restore(
                    record.spec, Path(boot.snapshot.snapshot_path), boot.token
                )
        boot.record = replace(record, handle=handle)
        if boot.snapshot is not None:
            boot.onlooker.restored(boot.record)

    async def _claim(self, notes: BootNotes, boot: _Boot) -> None:
        identity = identity_of(boot.tenant, boot.token)
        began_s = time.monotonic()
        with boot.watch.stage("identity") as steps:
            boot.claimed = await self._host.vms.claim(
                notes.vm_id,
                identity,
                self._timeout_s(boot),
                self._docker_at_once_s(boot),
                boot.ticket.prepared,
            )
            steps += boot.claimed.steps
        boot.claimed_after_s = time.monotonic() - began_s

    async def _verify(self, notes: BootNotes, boot: _Boot) -> None:
        with boot.watch.stage("docker", before_s=boot.claimed.docker_waited_s):
            if not boot.claimed.docker_answers:
                left_s = self._timeout_s(boot) - self._waited_s(boot)
                await self._host.vms.wait_for_docker(notes.vm_id, left_s)
        boot.ticket.ran()
        boot.onlooker.answers(boot.record)
        # Not before: whoever finds it unfinished undoes it, and finds its processes by its folder.
        await self._store.vms.update(boot.record.id, handle=boot.record.handle)

    def _timeout_s(self, boot: _Boot) -> float:
        """Of a VM in use there is no other snapshot, and no cold boot in its place: it may take as
        long as that."""
        snapshot = boot.snapshot if boot.restores else None
        has_substitute = snapshot is not None and snapshot.is_reproducible
        return self._timeouts.warm_s if has_substitute else self._timeouts.cold_s

    def _waited_s(self, boot: _Boot) -> float:
        """How much of the time for Docker is over."""
        if boot.restores:
            return min(boot.claimed.docker_waited_s, self._docker_at_once_s(boot))
        # An agent that came at the last moment leaves its Docker a little.
        return min(boot.claimed_after_s, self._timeouts.cold_s / 2)

    def _docker_at_once_s(self, boot: _Boot) -> float:
        """Where Docker runs already it is asked for in the same breath, for half of its time."""
        if not boot.restores:
            return 0.0
        return min(DOCKER_AT_ONCE_S, self._timeout_s(boot) / 2)


def _console_of(tenant: Tenant) -> str:
    """The command that shows it."""
    if tenant.kind is VmKind.ENGINE:
        return f"warmboot engine logs {tenant.name}"
    return f"warmboot logs --boot {tenant.name}"


async def with_second_try(boot: Callable[[], Awaitable[T]]) -> T:
    """Boot cold; a guest that did not come up at all gets one more VM.

    An emulated machine on a busy host may still die before its agent is up.
    """
    try:
        return await boot()
    except (VmGone, GuestUnreachable) as error:
        log.warning(f"a cold boot is tried once more: {error.brief}", details=error.details)
        return await boot()
