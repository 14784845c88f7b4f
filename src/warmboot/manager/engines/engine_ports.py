"""Ports of the host that lead to containers in engines.

    create   a port that is left to Docker is led at once, and is the container's until its removal
    start    one with a number is led before the start is passed on, or refused as taken
    die      and given back; removed: all of them

What is led answers at the engine's own address, too (``own_ports``). The front asks here
(``answer``) before it passes such a request on. Containers that were made by who holds Docker's
socket inside the VM go round it: theirs follow from dockerd's events, a moment later. One lock an
engine: its ports change one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from warmboot.docker.client import DockerClient
from warmboot.host.agent import HostAgent
from warmboot.host.network import Slot
from warmboot.manager.core.background import Work
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.core.tasks import Tasks
from warmboot.manager.engines.ports.docker_ports import is_same, led_by, running_of
from warmboot.manager.engines.ports.own_ports import OwnPorts, free_here
from warmboot.manager.engines.ports.privileged_ports import check_privilege
from warmboot.manager.engines.ports.retry_taken import RetryTaken
from warmboot.manager.vms.slots import slot_of
from warmboot.model.container import PortMapping
from warmboot.model.errors import (
    Conflict,
    ContainerError,
    GuestError,
    HostError,
    InvalidRequest,
    NotFound,
    WarmbootError,
)
from warmboot.model.journal.event import Event
from warmboot.model.tenants.engine import Engine, EnginePort
from warmboot.store import Store
from warmboot.system.back_off import BackOff
from warmboot.system.call_channel import CallRefused
from warmboot.system.on_failure import on_failure

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
LOOK_BACK_S = 1.0
"""What has happened just before it is followed is told, too."""

MOST_PORTS = 4096
"""Of one engine: all share the host's, and each is a socket of the manager's."""

Answer = Mapping[str, Any]


class EnginePorts:
    def __init__(self, store: Store, host: HostAgent, events: EventLog, tasks: Tasks) -> None:
        self._store = store
        self._host = host
        self._events = events
        self._tasks = tasks
        self._locks: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._led: defaultdict[UUID, dict[PortMapping, str]] = defaultdict(dict)
        """To which container; to none yet, if that is empty."""
        self._own = OwnPorts(store, host, events)
        self._retry = RetryTaken(tasks, self._lead_taken)
        self._reserved: dict[tuple[UUID, int], list[EnginePort]] = {}
        # The front may still hold the number of a reservation that another manager has made.
        self._numbers = itertools.count(time.time_ns())
        self._calls: Mapping[str, Callable[[UUID, Mapping[str, Any]], Awaitable[Answer]]] = {
            "reserve-ports": self._reserve,
            "keep-ports": self._keep,
            "publish-ports": self._publish,
            "settle-ports": self._settle,
        }

    async def answer(self, call: str, given: Mapping[str, Any]) -> Answer:
        """What the front asks for. ``CallRefused`` in words."""
        if call not in self._calls:
            raise CallRefused(f"this manager does not know {call}")
        engine_id = UUID(given["engine"])
        try:
            async with self._changing(engine_id):
                return await self._calls[call](engine_id, given)
        except WarmbootError as error:
            return {"refused": ": ".join(part for part in (error.brief, error.details) if part)}

    def on_event(self, event: Event) -> None:
        """An observer of the event log."""
        if event.kind in ("engine.running", "engine.woken"):  # perhaps in another VM than before
            self._led.pop(UUID(event.subject_id), None)
            self._own.forget(UUID(event.subject_id))
            self.follow(UUID(event.subject_id))

    def follow(self, engine_id: UUID, *, ran_before: bool = False) -> None:
        """Follow what its containers do, until its VM's end.

        ``ran_before``: they may have ended or gone while nobody looked.
        """
        self._tasks.keep_going(
            Work.WATCH_ENGINES, _key(engine_id), lambda: self._follow(engine_id, ran_before)
        )

    async def stop(self, engine_id: UUID) -> None:
        """Its VM goes, and its ports with that."""
        await self._tasks.cancel(_key(engine_id))
        await self._retry.stop(engine_id)
        self._led.pop(engine_id, None)
        self._own.removed(engine_id)

    def answered(self, engine: Engine) -> list[PortMapping]:
        """Where it answers on this host: what is led to its containers, and its own ports."""
        led = self._led[engine.id]
        return list(dict.fromkeys([*led, *self._own.mappings(engine, led)]))

    async def adopt(self, engine: Engine) -> None:
        """Hold again what an earlier manager had led to its containers."""
        async with self._changing(engine.id):
            runs = await running_of(self._host, engine)
            led = (one for one in engine.ports if one.mapping.host_ip)  # else it never was
            mine = [one for one in led if one.held or one.container in runs]
            slot = await self._slot(engine.id)
            self._led[engine.id] |= {one.mapping: one.container for one in mine}
            self._own.expect(engine.id, runs, self._led[engine.id])
            await self._host.vms.open_host_ports(slot, engine.spec.host_ports)
            await self._host.vms.republish(slot, self.answered(engine))
        self.follow(engine.id, ran_before=True)

    async def drop_reservations(self) -> None:
        """Nobody keeps them any more: the front that had asked for them is gone."""
        for engine_id, number in list(self._reserved):
            try:
                await self.answer(
                    "keep-ports",
                    {"engine": str(engine_id), "reservation": number, "container": None},
                )
            except Exception:  # the next ones are given back all the same
                log.exception(f"ports of engine {engine_id} were not given back")

    # -- what the front asks -------------------------------------------------------------------

    async def _reserve(self, engine_id: UUID, given: Mapping[str, Any]) -> Answer:
        slot = await self._slot(engine_id)
        found: list[EnginePort] = []
        async with on_failure(
            lambda: self._withdraw(engine_id, slot, (one.mapping for one in found if one.held), "")
        ):
            for port, host_ip, low, high in given["ports"]:
                found.append(await self._reserved_port(engine_id, slot, port, host_ip, low, high))
        number = next(self._numbers)
        self._reserved[engine_id, number] = found
        return {"reservation": number, "numbers": [one.mapping.host_port for one in found]}

    async def _reserved_port(
        self, engine_id: UUID, slot: Slot | None, port: str, host_ip: str, low: int, high: int
    ) -> EnginePort:
        protocol = port.partition("/")[2]
        if low == high != 0:
            return EnginePort("", PortMapping(low, low, host_ip, protocol))
        for number in range(low, high + 1):
            wanted = PortMapping(number, number, host_ip, protocol)
            with contextlib.suppress(Conflict):
                real = await self._take(engine_id, slot, wanted, "")
                return EnginePort("", real, held=True)
        raise Conflict(f"Bind for {host_ip}:{low}-{high} failed: all ports are allocated")

    async def _keep(self, engine_id: UUID, given: Mapping[str, Any]) -> Answer:
        found = self._reserved.pop((engine_id, given["reservation"]), [])
        container = given["container"]
        if container is None:
            slot = await self._slot(engine_id)
            await self._withdraw(engine_id, slot, (one.mapping for one in found if one.held), "")
            return {}
        self._led[engine_id] |= {one.mapping: container for one in found if one.held}
        kept = tuple(EnginePort(container, one.mapping, one.held) for one in found)
        engine = await self._store.engines.get(engine_id)
        await self._store.engines.update(engine_id, ports=(*engine.ports, *kept))
        return {}

    async def _publish(
        self, engine_id: UUID, given: Mapping[str, Any], *, runs: bool = False
    ) -> Answer:
        """What another container has, it keeps, until this one ``runs``: Docker decides."""
        engine, container = await self._store.engines.get(engine_id), given["container"]
        mappings = [one.mapping for one in engine.ports if one.container == container]
        if not mappings:
            mappings = [
                PortMapping(low, low, host_ip, port.partition("/")[2])
                for port, host_ip, low, _ in given["ports"]
            ]
        slot, made = await self._slot(engine_id), list[PortMapping]()
        passed_on = list[PortMapping]()
        for mapping in mappings:
            if (led := self._found(engine_id, mapping)) is not None:
                if runs:
                    self._led[engine_id][led] = container
                    passed_on.append(led)
                continue
            try:
                made.append(await self._take(engine_id, slot, mapping, container))
            except BaseException as error:  # cancelled, too; raised again
                await self._withdraw(engine_id, slot, made, container)
                if isinstance(error, Conflict):
                    return {"taken": [mapping.host_ip or "0.0.0.0", mapping.host_port]}
                raise
        await self._note(engine, container, [*made, *passed_on])
        return {}

    async def _note(self, engine: Engine, container: str, made: Sequence[PortMapping]) -> None:
        """Remember them with their real addresses."""
        known = {one.mapping: one for one in engine.ports if one.container == container}
        if known.keys() >= set(made):
            return
        others = [
            one
            for one in engine.ports
            if one.container != container or not any(is_same(one.mapping, real) for real in made)
        ]
        new = [known.get(real) or EnginePort(container, real) for real in made]
        await self._store.engines.update(engine.id, ports=(*others, *new))

    async def _settle(self, engine_id: UUID, given: Mapping[str, Any]) -> Answer:
        if given["runs"]:
            return await self._publish(engine_id, {**given, "ports": []}, runs=True)
        await self._give_back(engine_id, given["container"], removed=False)
        return {}

    async def _give_back(self, engine_id: UUID, container: str, *, removed: bool) -> None:
        engine = await self._store.engines.get(engine_id)
        mine = [one for one in engine.ports if one.container == container]
        going = [one.mapping for one in mine if removed or not one.held]
        self._own.give_back(engine_id, container)
        await self._withdraw(engine_id, await self._slot(engine_id), going, container)
        if removed and mine:
            others = tuple(one for one in engine.ports if one.container != container)
            await self._store.engines.update(engine_id, ports=others)

    async def _withdraw(
        self, engine_id: UUID, slot: Slot | None, mappings: Iterable[PortMapping], container: str
    ) -> None:
        """Those that lead to this container: another one may have the same number by now."""
        for mapping in mappings:
            led = self._found(engine_id, mapping)
            if led is not None and self._led[engine_id][led] == container:
                del self._led[engine_id][led]
                await self._host.vms.withdraw(slot, (led,))

    # -- what dockerd tells --------------------------------------------------------------------

    async def _follow(self, engine_id: UUID, ran_before: bool) -> None:
        back_off = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            engine = await self._store.engines.get(engine_id)
            if (vm_id := engine.live_vm_id) is None:
                return
            with contextlib.suppress(GuestError, ContainerError, HostError):
                await self._host.vms.pauses.until_runs(vm_id)
                docker = self._host.vms.link(vm_id).docker
                since_s = time.time() - LOOK_BACK_S
                await self._catch_up(engine, docker, ran_before)
                ran_before = True
                async for told in docker.container_events(since_s):
                    await self._happened(engine_id, docker, told)
            await back_off.pause()  # the connection broke; its VM's end is told by others

    async def _catch_up(self, engine: Engine, docker: DockerClient, ran_before: bool) -> None:
        """What was missed: also what was held before the engine was stopped, and is again."""
        runs = await self.publish_running(engine.id, docker)
        known = {one.container for one in engine.ports} if ran_before else set()
        known |= {container for _, container in self._own.taken(engine.id)}
        for container in known - set(runs):
            await self._ended(engine.id, docker, container)
        async with self._changing(engine.id):
            slot = await self._slot(engine.id)
            for one in (await self._store.engines.get(engine.id)).ports:
                if one.held and self._found(engine.id, one.mapping) is None:
                    await self._lead(engine.id, slot, one.mapping, one.container)

    async def publish_running(self, engine_id: UUID, docker: DockerClient) -> list[str]:
        """Have all that its running containers publish; what is taken is told. Their ids."""
        for container in (runs := await docker.running()):
            await self._started(engine_id, docker, container)
        return runs

    async def _happened(
        self, engine_id: UUID, docker: DockerClient, told: Mapping[str, Any]
    ) -> None:
        action, container = told.get("Action"), str((told.get("Actor") or {}).get("ID", ""))
        if action == "start":
            await self._started(engine_id, docker, container)
        elif action == "die":
            await self._ended(engine_id, docker, container)
        elif action == "destroy":
            async with self._changing(engine_id):
                await self._give_back(engine_id, container, removed=True)

    async def _started(self, engine_id: UUID, docker: DockerClient, container: str) -> None:
        try:
            described = await docker.description(container)
        except NotFound:
            return
        if not described["State"]["Running"]:  # any more
            return
        async with self._changing(engine_id):
            engine = await self._store.engines.get(engine_id)
            slot, made = await self._slot(engine_id), list[PortMapping]()
            known = [one.mapping for one in engine.ports if one.container == container]
            for mapping in known or led_by(described):
                if (led := self._found(engine_id, mapping)) is not None:
                    self._led[engine_id][led] = container
                    made.append(led)
                elif (real := await self._lead(engine_id, slot, mapping, container)) is not None:
                    made.append(real)
            await self._note(engine, container, made)

    async def _ended(self, engine_id: UUID, docker: DockerClient, container: str) -> None:
        removed = False
        try:
            if (await docker.description(container))["State"]["Running"]:  # it was started again
                return
        except NotFound:
            removed = True
        async with self._changing(engine_id):
            await self._give_back(engine_id, container, removed=removed)

    async def _lead(
        self, engine_id: UUID, slot: Slot | None, mapping: PortMapping, container: str
    ) -> PortMapping | None:
        """Nobody waits for it: one that is taken is told, and tried again."""
        try:
            real = await self._take(engine_id, slot, mapping, container)
        except (Conflict, InvalidRequest, HostError) as error:
            await self._own.note_taken(engine_id, mapping, container, error)
            self._retry.begin(engine_id)
            return None
        await self._own.is_published(engine_id, mapping)
        return real

    async def _lead_taken(self, engine_id: UUID) -> bool:
        """Whether nothing is left that might be free on the host some day."""
        async with self._changing(engine_id):
            slot = await self._slot(engine_id)
            for mapping, container in self._own.taken(engine_id):
                if (real := await self._lead(engine_id, slot, mapping, container)) is not None:
                    engine = await self._store.engines.get(engine_id)
                    await self._note(engine, container, [real])
            return not self._own.taken(engine_id)

    # -- inside --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _changing(self, engine_id: UUID) -> AsyncIterator[None]:
        """Its ports may change; what is led then answers at its own address, too."""
        async with self._locks[engine_id]:
            yield
            await self._own.show(engine_id, await self._slot(engine_id), self._led[engine_id])

    def _found(self, engine_id: UUID, mapping: PortMapping) -> PortMapping | None:
        """What is led of this."""
        return next((led for led in self._led[engine_id] if is_same(mapping, led)), None)

    async def _take(
        self, engine_id: UUID, slot: Slot | None, mapping: PortMapping, container: str
    ) -> PortMapping:
        """Lead it; with its real address and number. ``Conflict`` when somebody has it."""
        if len(self._led[engine_id]) >= MOST_PORTS:
            raise HostError(
                f"the engine has {MOST_PORTS} ports published, which is the maximum",
                resolution="remove containers whose ports are not needed any more",
            )
        engine = await self._store.engines.get(engine_id)
        check_privilege(engine, mapping)
        if not mapping.host_ip or mapping.host_ip != engine.address:
            (real,) = await self._host.vms.publish(slot, (mapping,))
        elif not mapping.host_port:  # its number is to be free on the host, as any other's
            (real,) = await self._host.vms.publish(slot, (replace(mapping, host_ip=""),))
        else:  # there, and nowhere else
            real = free_here(self._led[engine_id], mapping)
        self._led[engine_id][real] = container
        return real

    async def _slot(self, engine_id: UUID) -> Slot | None:
        records = await self._store.vms.of_owner(engine_id)
        return slot_of(records[0]) if records else None


def _key(engine_id: UUID) -> str:
    return f"ports {engine_id}"
