"""Engines in memory: the same states and errors, no VM and no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

from tests.support.fake_events import DEFAULT_SHAPE, FakeEvents, now

from warmboot.manager.protocols import EngineUntil
from warmboot.model.conventions.registry_logins import RegistryLogin, check_size
from warmboot.model.errors import Conflict, InUse, NameTaken, NotFound
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.tenants.engine import (
    ENGINE_TRANSITIONS,
    LIVING,
    Certificates,
    Engine,
    EngineSpec,
)
from warmboot.model.tenants.engine import EngineState as S
from warmboot.model.usage import DiskUsage

EXPIRES_AT = datetime(2036, 1, 2, 3, 4, 5, tzinfo=UTC)


class FakeEngines:
    """A created one runs at once, unless ``fails`` says why it does not."""

    def __init__(self, events: FakeEvents) -> None:
        self.rows: dict[UUID, Engine] = {}
        self.removed: list[str] = []
        self.renewed: list[str] = []
        self.asked: list[EngineSpec] = []
        self.logins: dict[str, Sequence[RegistryLogin]] = {}
        self.fails: dict[str, str] | None = None
        self.frozen: dict[str, UUID] = {}
        self._events = events

    def _set(self, engine: Engine, state: S) -> None:
        ENGINE_TRANSITIONS.check(engine.state, state)
        self.rows[engine.id] = replace(engine, state=state)
        self._events.add(f"engine.{state}", engine.id, name=engine.name)

    async def create(self, spec: EngineSpec) -> UUID:
        self.asked.append(spec)
        if any(row.name == spec.name for row in self.rows.values()):
            raise NameTaken(
                f"there is an engine named {spec.name!r} already",
                resolution="choose another name, or remove that one",
            )
        socket = f"/run/warmboot/18080/engines/{spec.name}.sock"
        shape = spec.shape or DEFAULT_SHAPE
        engine = Engine(uuid4(), spec, S.CREATING, now(), shape, socket, address="127.19.0.7")
        self._events.add("engine.creating", engine.id, name=spec.name)
        if self.fails is not None:
            self._set(replace(engine, error=self.fails), S.FAILED)
            return engine.id
        booted = replace(engine, boot_method=BootMethod.WARM, boot_s=0.1, started_at=now())
        self._set(booted, S.RUNNING)
        return engine.id

    async def list(self) -> Sequence[Engine]:
        return list(self.rows.values())

    async def get(self, ref: str) -> Engine:
        for engine in self.rows.values():
            if ref in (engine.name, str(engine.id)) or engine.id.hex.startswith(ref):
                return engine
        raise NotFound(f"there is no engine {ref!r}", resolution="see `warmboot engine ls`")

    async def wait(self, ref: str, until: EngineUntil, timeout_s: float) -> Engine:
        await asyncio.sleep(0)
        return await self.get(ref)

    async def snapshot(self, ref: str, name: str) -> UUID:
        engine = await self.get(ref)
        if engine.state is not S.RUNNING:
            raise Conflict(f"the engine {engine.name} is {engine.state}")
        if name in self.frozen:
            raise NameTaken(f"there is a snapshot named {name!r} already")
        self.frozen[name] = uuid4()
        return self.frozen[name]

    async def fork(
        self, ref: str, count: int, *, writable_folders: bool = False
    ) -> Sequence[Engine]:
        source = await self.get(ref)
        if source.state is S.PAUSED:
            raise Conflict(f"the engine {source.name} is paused, unpause it first")
        names = [f"{source.name}-{number}" for number in range(1, count + 1)]
        made = [await self.create(replace(source.spec, name=name)) for name in names]
        return [self.rows[engine_id] for engine_id in made]

    async def start(self, ref: str) -> None:
        engine = await self.get(ref)
        if engine.state is S.PAUSED:
            raise Conflict(f"the engine {engine.name} is paused, unpause it first")
        if engine.state is not S.RUNNING:
            self._set(engine, S.CREATING)
            self._set(await self.get(ref), S.RUNNING)

    async def pause(self, ref: str) -> None:
        engine = await self.get(ref)
        if engine.state is not S.RUNNING:
            raise Conflict(f"the engine {engine.name} is not running")
        self._set(engine, S.PAUSED)

    async def unpause(self, ref: str) -> None:
        engine = await self.get(ref)
        if engine.state is not S.PAUSED:
            raise Conflict(f"the engine {engine.name} is not paused")
        self._set(engine, S.RUNNING)

    async def park(self, ref: str) -> None:
        engine = await self.get(ref)
        if engine.state is not S.RUNNING:
            raise Conflict(f"the engine {engine.name} is not running")
        for state in (S.PARKING, S.PARKED):
            self._set(await self.get(ref), state)

    async def wake(self, ref: str) -> None:
        engine = await self.get(ref)
        if engine.state is not S.PARKED:
            raise Conflict(f"the engine {engine.name} is not parked")
        for state in (S.WAKING, S.RUNNING):
            self._set(await self.get(ref), state)

    async def stop(self, ref: str, timeout_s: float | None = None) -> None:
        engine = await self.get(ref)
        if engine.state is S.PAUSED:
            await self.unpause(ref)
            engine = await self.get(ref)
        if engine.state is S.RUNNING:
            self._set(engine, S.STOPPED)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        engine = await self.get(ref)
        if not force and engine.state in LIVING:
            raise InUse(f"the engine {engine.name} is running", resolution="stop it first")
        del self.rows[engine.id]
        self.removed.append(engine.name)
        self._events.add("engine.deleted", engine.id)

    async def log_in(self, ref: str, logins: Sequence[RegistryLogin]) -> None:
        check_size(logins)
        self.logins[(await self.get(ref)).name] = logins

    async def boot_log(self, ref: str) -> bytes:
        return f"booting {(await self.get(ref)).name}\n".encode()

    async def certificates(self, ref: str) -> Certificates:
        engine = await self.get(ref)
        if engine.spec.tcp is None:
            raise NotFound("the engine has no certificates", resolution="create one with --tcp")
        number = self.renewed.count(engine.name)
        key = f"a key {number}\n" if number else "a key\n"
        return Certificates("an authority\n", "a certificate\n", key, EXPIRES_AT)

    async def renew_certificates(self, ref: str) -> None:
        await self.certificates(ref)
        self.renewed.append((await self.get(ref)).name)

    async def disk(self, ref: str) -> DiskUsage:
        engine = await self.get(ref)
        running = engine.state is S.RUNNING
        return DiskUsage(4096, 8 << 30, 1 << 20) if running else DiskUsage(4096)
