"""Booting a container's VM, warm or cold: one saga.

    lease ─▶ network ─▶ machine ─▶ start ─▶ identity ─▶ docker
    the      a slot     folder,    boot or  the guest   Docker has
    snapshot            disk, row  restore  is itself   answered

The lease is the container's: its disk is an overlay on the snapshot's for as long as it lives.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import structlog

from warmboot.host.agent import HostAgent
from warmboot.host.guest.guest_link import Claimed, Identity
from warmboot.host.network import Slot
from warmboot.host.vm.boot_logs import last_lines
from warmboot.host.vm.vm_files import DiskSource, image_disks, kept_disk, snapshot_disks
from warmboot.manager.core.boot_admission import BootTicket
from warmboot.manager.core.saga import Context, Saga, SagaRunner, Step
from warmboot.manager.core.stopwatch import Stopwatch
from warmboot.manager.vms.warm_pool import Prepared, WarmPool
from warmboot.model.container import Container
from warmboot.model.errors import GuestError, GuestUnreachable, NotFound, VmGone, WarmbootError
from warmboot.model.runtime_image import RuntimeImage
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.shapes import Shape
from warmboot.model.vm import VmKind, VmRecord, VmSpec
from warmboot.store import Store

log = structlog.get_logger(__name__)

T = TypeVar("T")

DOCKER_AT_ONCE_S = 2.0
"""How long a restored guest waits for its Docker by itself; then it is asked to wait on."""


@dataclass(frozen=True, slots=True)
class BootTimeouts:
    """Seconds until Docker must have answered."""

    warm_s: float = 30.0
    cold_s: float = 300.0


@dataclass(frozen=True, slots=True)
class _Order:
    """What one run of the saga is to boot."""

    container: Container
    image: RuntimeImage
    shape: Shape
    snapshot: RuntimeSnapshot | None
    kept: VmRecord | None
    prepared: Prepared | None
    token: str
    watch: Stopwatch
    ticket: BootTicket

    @property
    def vm_id(self) -> str | None:
        """The VM's id, where it has one already."""
        if self.kept is not None:
            return self.kept.id
        return None if self.prepared is None else self.prepared.spec.id


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
            (
                Step("lease", self._lease, self._unlease),
                Step("network", self._reserve, self._unreserve),
                Step("machine", self._make, self._unmake),
                Step("start", self._start),
                Step("identity", self._claim),
                Step("docker", self._verify),
            ),
            known=2,  # a network slot that was not noted is one that nobody has
        )

    async def warm(
        self,
        container: Container,
        image: RuntimeImage,
        snapshot: RuntimeSnapshot,
        watch: Stopwatch,
        ticket: BootTicket,
    ) -> VmRecord:
        prepared = self._warm_pool.take(snapshot.id)
        order = _Order(
            container, image, snapshot.shape, snapshot, None, prepared, _token(), watch, ticket
        )
        try:
            return await self._boot(order)
        except BaseException:  # cancelled, too; raised again
            if prepared is not None:  # the saga may have failed before it was its
                await self._warm_pool.discard(prepared)
            raise

    async def cold(
        self, container: Container, image: RuntimeImage, watch: Stopwatch, ticket: BootTicket
    ) -> VmRecord:
        return await self._boot(
            _Order(container, image, container.shape, None, None, None, _token(), watch, ticket)
        )

    async def again(
        self,
        container: Container,
        image: RuntimeImage,
        kept: VmRecord,
        watch: Stopwatch,
        ticket: BootTicket,
    ) -> VmRecord:
        """Cold, on the disk of the container's earlier VM, which died."""
        return await self._boot(
            _Order(container, image, kept.spec.shape, None, kept, None, _token(), watch, ticket)
        )

    async def _boot(self, order: _Order) -> VmRecord:
        data = {
            "vm_id": order.vm_id or f"vm-{secrets.token_hex(6)}",
            "snapshot_id": str(order.snapshot.id) if order.snapshot else None,
            "keeps_disk": order.kept is not None,
            "slot": None,
        }
        container = order.container
        try:
            context = await self._runner.run(self.saga, str(container.id), data, {"order": order})
        except (GuestError, VmGone) as error:
            if order.snapshot is None:
                await self._quote_console(error, container, data)
            raise
        record: VmRecord = context.live["record"]
        return record

    async def _quote_console(
        self, error: WarmbootError, container: Container, data: Mapping[str, Any]
    ) -> None:
        """Let an error of a cold boot say what the guest said last."""
        logs = self._host.boot_logs
        text = await logs.of_vm(str(data["vm_id"])) or await logs.kept(container.id)
        said = last_lines(text) or "(nothing)"
        error.details = f"{error.details}\nthe last that its guest said:\n{said}".strip()
        error.resolution = (
            "is this machine very busy, or without KVM? Raise MANAGER_COLD_BOOT_TIMEOUT_S; all "
            f"that the guest said: `warmboot logs --boot {container.name}`"
        )

    # -- steps ---------------------------------------------------------------------------------

    async def _lease(self, context: Context) -> None:
        order: _Order = context.live["order"]
        if order.snapshot is not None:
            await self._store.snapshots.lease(order.snapshot.id, context.subject_id)

    async def _unlease(self, context: Context) -> None:
        if context.data["snapshot_id"] is not None:
            await self._store.snapshots.release(context.subject_id)

    async def _reserve(self, context: Context) -> None:
        order: _Order = context.live["order"]
        with order.watch.stage("network"):
            prepared = order.prepared
            slot = prepared.slot if prepared else await self._host.reserve_slot()
        context.live["slot"] = slot
        context.data["slot"] = None if slot is None else slot.as_dict()

    async def _unreserve(self, context: Context) -> None:
        # A slot that was taken but not noted is one that the host finds unused at its start.
        await self._host.release_slot(journaled_slot(context))

    async def _make(self, context: Context) -> None:
        order: _Order = context.live["order"]
        with order.watch.stage("disk"):
            spec = await self._spec(context, order)
            record = VmRecord(
                id=spec.id,
                kind=VmKind.CONTAINER,
                owner_id=order.container.id,
                spec=spec,
                token=order.token,
                created_at=datetime.now(UTC),
                slot=context.data["slot"],
                snapshot_id=order.kept.snapshot_id if order.kept else _snapshot_id(order),
            )
            if order.kept is None:
                await self._store.vms.add(record)
            else:
                # Together: without a record the kept disk would be taken for a left-over.
                async with self._store.transaction():
                    await self._store.vms.remove(order.kept.id)
                    await self._store.vms.add(record)
            context.live["record"] = record

    async def _spec(self, context: Context, order: _Order) -> VmSpec:
        source = await self._disks(order)
        if order.prepared is not None:
            return order.prepared.spec
        slot: Slot | None = context.live["slot"]
        return await self._host.make_vm(
            context.data["vm_id"], order.image, order.shape, slot, source
        )

    async def _disks(self, order: _Order) -> DiskSource:
        if order.kept is not None:
            return replace(image_disks(order.image), keep=kept_disk(order.kept.spec))
        if order.snapshot is not None:
            await self._host.files.check(order.snapshot.snapshot_path)
            return snapshot_disks(order.snapshot.snapshot_path)
        return image_disks(order.image)

    async def _unmake(self, context: Context) -> None:
        vm_id, kept = context.data["vm_id"], context.data["keeps_disk"]
        with contextlib.suppress(OSError):  # a full disk; the VM has to go all the same
            await self._host.boot_logs.keep(UUID(context.subject_id), vm_id)
        await self._host.destroy(vm_id, journaled_slot(context), keep_folder=kept)
        if kept:
            with contextlib.suppress(NotFound):
                await self._store.vms.update(vm_id, handle=None, slot=None)
        else:
            await self._store.vms.remove(vm_id)

    async def _start(self, context: Context) -> None:
        order: _Order = context.live["order"]
        record: VmRecord = context.live["record"]
        if order.snapshot is None:
            with order.watch.stage("boot"):
                handle = await self._host.boot(record.spec, order.token)
        else:
            await order.ticket.run()
            if order.prepared is None:  # a restore takes its time, and little of ours
                order.ticket.prepared()
            with order.watch.stage("restore"):
                handle = await self._host.restore(
                    record.spec, Path(order.snapshot.snapshot_path), order.token
                )
        context.live["record"] = replace(record, handle=handle)

    async def _claim(self, context: Context) -> None:
        order: _Order = context.live["order"]
        identity = Identity(
            hostname=order.container.spec.host_name,
            machine_id=order.container.id.hex,
            token=order.token,
        )
        began_s = time.monotonic()
        with order.watch.stage("identity") as steps:
            claimed = await self._host.claim(
                context.data["vm_id"],
                identity,
                self._timeout_s(order),
                self._docker_at_once_s(order),
                order.ticket.prepared,
            )
            steps += claimed.steps
        context.live["claimed"] = claimed
        context.live["claimed_after_s"] = time.monotonic() - began_s

    async def _verify(self, context: Context) -> None:
        order: _Order = context.live["order"]
        claimed: Claimed = context.live["claimed"]
        with order.watch.stage("docker", before_s=claimed.docker_waited_s):
            if not claimed.docker_answers:
                left_s = self._timeout_s(order) - self._waited_s(order, context)
                await self._host.wait_for_docker(context.data["vm_id"], left_s)
        order.ticket.ran()
        # Not before: whoever finds it unfinished undoes it, and finds its processes by its folder.
        record: VmRecord = context.live["record"]
        await self._store.vms.update(record.id, handle=record.handle)

    def _timeout_s(self, order: _Order) -> float:
        return self._timeouts.cold_s if order.snapshot is None else self._timeouts.warm_s

    def _waited_s(self, order: _Order, context: Context) -> float:
        """How much of the time for Docker is over."""
        claimed: Claimed = context.live["claimed"]
        if order.snapshot is not None:
            return min(claimed.docker_waited_s, self._docker_at_once_s(order))
        # An agent that came at the last moment leaves its Docker a little.
        took_s: float = context.live["claimed_after_s"]
        return min(took_s, self._timeouts.cold_s / 2)

    def _docker_at_once_s(self, order: _Order) -> float:
        """Where Docker runs already it is asked for in the same breath, for half of its time."""
        if order.snapshot is None:
            return 0.0
        return min(DOCKER_AT_ONCE_S, self._timeout_s(order) / 2)


async def with_second_try(boot: Callable[[], Awaitable[T]]) -> T:
    """Boot cold; a guest that did not come up at all gets one more VM.

    An emulated machine on a busy host may still die before its agent is up.
    """
    try:
        return await boot()
    except (VmGone, GuestUnreachable) as error:
        log.warning(f"a cold boot is tried once more: {error.brief}", details=error.details)
        return await boot()


def journaled_slot(context: Context, key: str = "slot") -> Slot | None:
    """The network slot that a saga noted; it may have died since."""
    slot = context.data[key]
    return None if slot is None else Slot.from_dict(slot)


def _token() -> str:
    return secrets.token_urlsafe(32)


def _snapshot_id(order: _Order) -> UUID | None:
    return order.snapshot.id if order.snapshot else None
