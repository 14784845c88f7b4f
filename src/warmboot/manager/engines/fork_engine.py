"""Forks a running engine: freezes it once, and starts engines from that moment, all or none.

    moment ─▶ engines ─▶ up ─▶ hide
    frozen    all are    all   no other can be made from it: it goes when the last of them does
              begun      run

What fails takes back all of it, and so does the next start if the manager is killed meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID, uuid4

from warmboot.host.agent import HostAgent
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.saga import Saga, SagaRunner, Step
from warmboot.manager.garbage.collect_garbage import CollectGarbage
from warmboot.manager.protocols import EngineUntil
from warmboot.manager.vms.warm_pool import SHARE_OF_OWN
from warmboot.model.conventions.names import MAX_NAME_LENGTH
from warmboot.model.errors import HostError, IllegalTransition, MemoryFull, NotFound
from warmboot.model.runtime_snapshot import SnapshotState
from warmboot.model.tenants.boot import BootPolicy
from warmboot.model.tenants.engine import Engine, EngineSpec, EngineState
from warmboot.store import Store

UP_TIMEOUT_S = 600.0


class Making(Protocol):
    """What a fork does with engines."""

    async def create(self, spec: EngineSpec, engine_id: UUID | None = None) -> UUID: ...

    async def freeze(self, engine_id: UUID, snapshot_id: UUID, name: str | None) -> None: ...

    async def wait(self, ref: str, until: EngineUntil, timeout_s: float) -> Engine: ...

    async def remove(self, engine_id: UUID) -> None: ...


@dataclass(slots=True)
class ForkNotes:
    """Journaled."""

    moment_id: UUID
    engine_ids: tuple[UUID, ...]


@dataclass(slots=True)
class _Fork:
    source: Engine
    names: Sequence[str]
    made: list[Engine] = field(default_factory=list)


class ForkEngine:
    def __init__(
        self,
        store: Store,
        host: HostAgent,
        runner: SagaRunner,
        events: EventLog,
        garbage: CollectGarbage,
        engines: Making,
    ) -> None:
        self._store = store
        self._host = host
        self._runner = runner
        self._events = events
        self._garbage = garbage
        self._engines = engines
        self.saga = Saga(
            "fork-engine",
            ForkNotes,
            Step("moment", self._freeze, self._forget_moment),
            Step("engines", self._create, self._remove),
            Step("up", self._wait),
            Step("hide", self._hide),
        )

    async def __call__(self, source: Engine, count: int) -> Sequence[Engine]:
        """The engines, once all of them run. What one of them fails of, all do."""
        self._check_memory(source, count)
        fork = _Fork(source, await self._free_names(source, count))
        notes = ForkNotes(uuid4(), tuple(uuid4() for _ in range(count)))
        await self._runner.run(self.saga, source.id, notes, fork)
        return fork.made

    def _check_memory(self, source: Engine, count: int) -> None:
        """They share what they do not change: each has so much for itself that it needs it."""
        needed_mib = int(source.shape.memory_mib * max(1.0, count * SHARE_OF_OWN))
        free_mib = self._host.free_memory_mib()
        if needed_mib > free_mib:
            raise MemoryFull(
                f"there is no memory for {count} forks of the engine {source.name}",
                details=f"{free_mib} MiB are free, and they may come to use {needed_mib} MiB",
                resolution="ask for fewer, or stop engines and containers",
            )

    async def _free_names(self, source: Engine, count: int) -> list[str]:
        """``ci-1``, ``ci-2``, … without those that are taken."""
        taken = {engine.name for engine in await self._store.engines.list()}
        found: list[str] = []
        number = 0
        while len(found) < count:
            number += 1
            suffix = f"-{number}"
            name = source.name[: MAX_NAME_LENGTH - len(suffix)] + suffix
            if name not in taken:
                found.append(name)
        return found

    # -- steps ---------------------------------------------------------------------------------

    async def _freeze(self, notes: ForkNotes, fork: _Fork) -> None:
        await self._engines.freeze(fork.source.id, notes.moment_id, None)

    async def _forget_moment(self, _: UUID, notes: ForkNotes) -> None:
        with contextlib.suppress(NotFound, IllegalTransition):  # never made, or hidden already
            await self._store.snapshots.set_state(notes.moment_id, SnapshotState.DELETED)
            await self._events.emit("runtime-snapshot.deleted", notes.moment_id)
        await self._garbage.collect_released()

    async def _create(self, notes: ForkNotes, fork: _Fork) -> None:
        spec = replace(
            fork.source.spec,
            snapshot=str(notes.moment_id),
            boot=BootPolicy.AUTO,
            shape=None,
            runtime_image_id=None,
            tcp=None,
        )
        for engine_id, name in zip(notes.engine_ids, fork.names, strict=True):
            await self._engines.create(replace(spec, name=name), engine_id)

    async def _remove(self, _: UUID, notes: ForkNotes) -> None:
        removing = [self._engines.remove(engine_id) for engine_id in notes.engine_ids]
        for ended in await asyncio.gather(*removing, return_exceptions=True):
            if isinstance(ended, BaseException):  # the others are removed all the same
                raise ended

    async def _wait(self, notes: ForkNotes, fork: _Fork) -> None:
        for engine_id in notes.engine_ids:
            fork.made.append(await self._up(engine_id))

    async def _up(self, engine_id: UUID) -> Engine:
        engine = await self._engines.wait(str(engine_id), EngineUntil.RUNNING, UP_TIMEOUT_S)
        if engine.state is EngineState.RUNNING:
            return engine
        error = engine.error or {}
        why = ": ".join(str(error[key]) for key in ("brief", "details") if error.get(key))
        raise HostError(
            f"the fork {engine.name} did not come up, and so there is none",
            details=why or f"it is {engine.state}",
            resolution=str(error.get("resolution") or "try again"),
        )

    async def _hide(self, notes: ForkNotes, _: _Fork) -> None:
        async with self._events.transaction() as emit:
            await self._store.snapshots.set_state(notes.moment_id, SnapshotState.DELETED)
            await emit("runtime-snapshot.deleted", notes.moment_id)
