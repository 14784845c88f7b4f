"""Forks a running container or engine: freezes it once, and starts others there, all or none.

    moment ─▶ forks ─▶ hide
    frozen    all run  no other can be made from it: it goes when the last of them does

As many are begun as guests are booted at once, and the next one when one of them runs: each has at
once what its source had to do, and all of them together would take from each other the time in
which a guest has to answer.

What fails takes back all of it, and so does the next start if the manager is killed meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID, uuid4

from warmboot.host.agent import HostAgent
from warmboot.manager.core.admission import GUESTS_AT_ONCE
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.tenants.pause_tenant import called, to_be_frozen
from warmboot.manager.vms.warm_pool import SHARE_OF_OWN
from warmboot.model.conventions.names import MAX_NAME_LENGTH
from warmboot.model.errors import (
    GuestUnreachable,
    HostError,
    IllegalTransition,
    InvalidRequest,
    MemoryFull,
    NameTaken,
    NotFound,
)
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.tenants.boot import Tenant
from warmboot.model.vm import VmKind
from warmboot.store import Store
from warmboot.system.concurrency import end

T = TypeVar("T", bound=Tenant)

UP_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class NewFork:
    """What is to go on from a moment. It may write to folders of the host if that was asked for."""

    id: UUID
    name: str
    moment_id: UUID
    writable_folders: bool = False


class Forking(Protocol[T]):
    """What a fork does with tenants of one kind."""

    async def freeze(self, tenant_id: UUID, snapshot_id: UUID, name: str | None) -> None: ...

    async def create_fork(self, source: T, fork: NewFork) -> None:
        """Begin it."""
        ...

    async def wait_up(self, tenant_id: UUID, timeout_s: float) -> T:
        """As it is when it runs, or has failed."""
        ...

    async def remove(self, tenant_id: UUID) -> None: ...


@dataclass(slots=True)
class ForkNotes:
    """Journaled."""

    moment_id: UUID
    fork_ids: tuple[UUID, ...]


@dataclass(slots=True)
class _Fork(Generic[T]):
    source: T
    names: Iterator[str]
    writable_folders: bool
    made: dict[UUID, T] = field(default_factory=dict)


class ForkTenant(Generic[T]):
    """``limit``: how many may be asked for at once."""

    def __init__(
        self,
        kind: VmKind,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        garbage: CollectGarbage,
        tenants: Forking[T],
        limit: int,
    ) -> None:
        self._kind = kind
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._garbage = garbage
        self._tenants = tenants
        self._limit = limit
        self.saga = Saga(
            f"fork-{kind}",
            ForkNotes,
            Step("moment", self._freeze, self._forget_moment),
            Step("forks", self._bring_up, self._remove),
            Step("hide", self._hide),
        )

    async def __call__(
        self, source: T, count: int, *, writable_folders: bool = False
    ) -> Sequence[T]:
        """The forks, once all of them run. What one of them fails of, all do."""
        if count > self._limit:
            raise InvalidRequest(
                f"{count} forks are too many",
                details=f"MANAGER_MAX_FORKS allows {self._limit} at once",
                resolution="ask for fewer, or raise that",
            )
        to_be_frozen(source)
        await self._check_memory(source, count)
        fork = _Fork(source, await self._names(source), writable_folders)
        notes = ForkNotes(uuid4(), tuple(uuid4() for _ in range(count)))
        await self._runner.run(self.saga, source.id, notes, fork)
        return [fork.made[fork_id] for fork_id in notes.fork_ids]

    async def _check_memory(self, source: T, count: int) -> None:
        """They share what they do not change: each has so much for itself that it needs it."""
        needed_mib = int(source.shape.memory_mib * max(1.0, count * SHARE_OF_OWN))
        free_mib = await self._host.have_free(needed_mib)
        if needed_mib > free_mib:
            raise MemoryFull(
                f"there is no memory for {count} forks of {called(source)}",
                details=f"{free_mib} MiB are free, and they may come to use {needed_mib} MiB",
                resolution="ask for fewer, or stop engines and containers",
            )

    async def _names(self, source: T) -> Iterator[str]:
        """``ci-1``, ``ci-2``, … without those that are taken."""
        taken = {tenant.name for tenant in await self._store.tenants(self._kind).list()}
        suffixes = (f"-{number}" for number in itertools.count(1))
        names = (source.name[: MAX_NAME_LENGTH - len(suffix)] + suffix for suffix in suffixes)
        return (name for name in names if name not in taken)

    # -- steps ---------------------------------------------------------------------------------

    async def _freeze(self, notes: ForkNotes, fork: _Fork[T]) -> None:
        await self._tenants.freeze(fork.source.id, notes.moment_id, None)

    async def _forget_moment(self, _: UUID, notes: ForkNotes) -> None:
        with contextlib.suppress(NotFound, IllegalTransition):  # never made, or hidden already
            await self._store.snapshots.set_state(notes.moment_id, SnapshotState.DELETED)
            await self._events.emit("runtime-snapshot.deleted", notes.moment_id)
        await self._garbage.collect_released()

    async def _bring_up(self, notes: ForkNotes, fork: _Fork[T]) -> None:
        left = iter(notes.fork_ids)

        async def one_after_the_other() -> None:
            for fork_id in left:
                await self._begin(notes.moment_id, fork_id, fork)
                fork.made[fork_id] = await self._up(fork_id)

        working = [asyncio.ensure_future(one_after_the_other()) for _ in range(GUESTS_AT_ONCE)]
        try:
            await asyncio.gather(*working)
        finally:
            await end(*working)

    async def _begin(self, moment_id: UUID, fork_id: UUID, fork: _Fork[T]) -> None:
        for name in fork.names:
            with contextlib.suppress(NameTaken):  # since we looked: by another fork of the same
                new = NewFork(fork_id, name, moment_id, fork.writable_folders)
                await self._tenants.create_fork(fork.source, new)
                return

    async def _remove(self, _: UUID, notes: ForkNotes) -> None:
        removing = [self._tenants.remove(fork_id) for fork_id in notes.fork_ids]
        for ended in await asyncio.gather(*removing, return_exceptions=True):
            if isinstance(ended, BaseException):  # the others are removed all the same
                raise ended

    async def _up(self, fork_id: UUID) -> T:
        tenant = await self._tenants.wait_up(fork_id, UP_TIMEOUT_S)
        if tenant.state not in ("creating", "failed", "deleting"):
            return tenant
        error: Any = tenant.error or {}
        resolution = str(error.get("resolution") or "try again")
        if error.get("code") == GuestUnreachable.code:  # what its console has goes with it
            resolution = (
                "is this machine very busy? Ask for fewer, or raise MANAGER_COLD_BOOT_TIMEOUT_S"
            )
        why = ": ".join(str(error[key]) for key in ("brief", "details") if error.get(key))
        raise HostError(
            f"the fork {tenant.name} did not come up, and so there is none",
            details=why or f"it is {tenant.state}",
            resolution=resolution,
        )

    async def _hide(self, notes: ForkNotes, _: _Fork[T]) -> None:
        async with self._events.transaction() as emit:
            await self._store.snapshots.set_state(notes.moment_id, SnapshotState.DELETED)
            await emit("runtime-snapshot.deleted", notes.moment_id)
