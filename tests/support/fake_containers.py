"""Containers in memory: the same states and errors, no VM.

What a fake container does is written in its command, as a tiny shell would read it:

    (none), sleep …, httpd … runs until it is stopped
    echo WORDS…          writes a line and exits with 0
    err WORDS…           the same, on stderr
    exit N               exits with N
    missing              is not there: the container fails
    cat                  gives back its input until that ends
    sh                   a terminal's echo: see ``FakeSession``
    ticks N              writes N lines, one at a time
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from signal import Signals
from typing import Any
from uuid import UUID, uuid4

from tests.support.fake_archives import FakeArchives
from tests.support.fake_container_sessions import FakeContainerSessions
from tests.support.fake_events import DEFAULT_SHAPE, FakeEvents, now
from tests.support.fake_sessions import FakeSession, run_command

from warmboot.manager.containers.first_attach import FirstAttach, FirstAttaches
from warmboot.manager.protocols import Until
from warmboot.model.container import CONTAINER_TRANSITIONS, LIVING, Container, ContainerSpec
from warmboot.model.container import ContainerState as S
from warmboot.model.errors import (
    CommandNotFound,
    Conflict,
    ContainerError,
    InUse,
    NameTaken,
    NotFound,
)
from warmboot.model.sessions import LogChunk, Stream
from warmboot.model.tenants.boot import (
    BootMethod,
    BootPolicy,
    FallbackReason,
    StageStep,
    StageTiming,
)
from warmboot.model.tenants.container_options import Health, HealthCheck


class FakeContainers(FakeContainerSessions):
    def __init__(self, events: FakeEvents, archives: FakeArchives) -> None:
        super().__init__()
        self.stage_s = 0.005
        self.tick_s = 0.02
        self.may_end = asyncio.Event()  # what writes lines ends then
        self.may_end.set()
        self.fail_creation: Exception | None = None
        self.removed: list[UUID] = []
        self.signals: list[str | None] = []
        self._first = FirstAttaches()
        self._events, self._archives = events, archives
        self._tasks: set[asyncio.Task[None]] = set()

    async def _set(self, container_id: UUID, state: S, **more: Any) -> None:
        row = self.rows[container_id]
        CONTAINER_TRANSITIONS.check(row.state, state)
        row = replace(row, state=state, **more)
        self.rows[container_id] = row
        data: dict[str, Any] = {"name": row.name}
        if state is S.EXITED:
            data["exit_code"] = row.exit_code
        self._events.add(f"container.{state}", container_id, **data)
        async with self._changed:
            self._changed.notify_all()

    async def create(
        self, spec: ContainerSpec, *, attach: bool = False, start: bool = True
    ) -> UUID:
        if self.fail_creation is not None:
            raise self.fail_creation
        if any(row.name == spec.name for row in self.rows.values()):
            raise NameTaken(
                f"there is a container {spec.name!r}",
                resolution=f"remove it with: warmboot rm {spec.name}",
            )
        if spec.archive is not None and spec.archive not in self._archives.kept:
            raise NotFound(f"no archive {spec.archive}", resolution="upload it first")
        state = S.CREATING if start else S.CREATED
        row = Container(uuid4(), spec, state, now(), spec.shape or DEFAULT_SHAPE)
        self.rows[row.id] = row
        self.output[row.id] = []
        self._events.add(f"container.{state}", row.id, name=spec.name)
        first = self._first.expect(row.id) if attach else None
        if start:
            self._begin(self._boot(row.id, first))
        return row.id

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _boot(self, container_id: UUID, first: FirstAttach | None) -> None:
        try:
            await self._bring_up(container_id, first)
        finally:
            if first is not None:
                self._first.close(container_id, first)
        if self.rows[container_id].state is S.RUNNING:
            await self._run(container_id, self.rows[container_id].spec.command or ("sleep",))

    async def _bring_up(self, container_id: UUID, first: FirstAttach | None) -> None:
        spec = self.rows[container_id].spec
        cold = spec.boot is BootPolicy.COLD
        stages = []
        names = ["boot" if cold else "restore", "identity", "docker", "pull", "create", "start"]
        for number, name in enumerate(names):
            self._events.add("container.stage", container_id, stage=name)
            if name == "pull":
                for done in (1_000_000, 4_000_000):
                    self._events.add(
                        "container.pull", container_id, bytes=done, total_bytes=4_000_000
                    )
            await asyncio.sleep(self.stage_s)
            steps = (StageStep("clock", 0.0001),) if name == "identity" else ()
            stages.append(StageTiming(name, number * self.stage_s, self.stage_s, steps))
        if spec.image.startswith("missing"):
            error = ContainerError(
                f"the image {spec.image} does not exist",
                details="the registry answered: manifest unknown",
                resolution="check the name and the tag",
            )
            await self._set(container_id, S.FAILED, error=error.as_dict(), finished_at=now())
            return
        if first is not None:
            await first.before_start("vm", "container")
        if spec.command and spec.command[0] == "missing":
            for session in self._attached(container_id):
                session.end(127)
            await asyncio.sleep(0.05)  # the session ends before its VM is given back
            refused = CommandNotFound("the image has no program 'missing'", details="exec: …")
            # One that is to be removed may be on its way already when somebody asks.
            state = S.DELETING if spec.auto_remove else S.FAILED
            await self._set(container_id, state, error=refused.as_dict(), finished_at=now())
            return
        ports = tuple(
            replace(port, host_port=port.host_port or 40_000 + number)
            for number, port in enumerate(spec.ports)
        )
        await self._set(
            container_id,
            S.RUNNING,
            started_at=now(),
            boot_method=BootMethod.COLD if cold else BootMethod.WARM,
            fallback_reason=FallbackReason.REQUESTED if cold else None,
            stages=tuple(stages),
            boot_s=0.5,
            ports=ports,
            vm_id=f"vm-{container_id.hex[:8]}",
            docker_id=container_id.hex * 2,
            health=_found_by(spec.options.health),
        )

    async def _run(self, container_id: UUID, command: tuple[str, ...]) -> None:
        if command[0] in ("sleep", "sh", "cat", "httpd"):
            return
        if command[0] == "ticks":
            for number in range(int(command[1])):
                await asyncio.sleep(self.tick_s)
                self._write(container_id, LogChunk(Stream.STDOUT, f"tick {number}\n".encode()))
            await self.may_end.wait()
            await self._exit(container_id, 0)
            return
        chunk, code = run_command(command)
        if chunk:
            self._write(container_id, chunk)
        await self._exit(container_id, code)

    async def _exit(self, container_id: UUID, code: int) -> None:
        for session in self._attached(container_id):
            session.end(code)
        await self._set(container_id, S.EXITED, exit_code=code, finished_at=now())
        if self.rows[container_id].spec.auto_remove:
            self._begin(self._remove_when_read(container_id))

    async def _remove_when_read(self, container_id: UUID) -> None:
        ended = self.rows[container_id]
        await asyncio.sleep(0.5)  # somebody may come to read it
        while self._readers[container_id]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # readers come and go
        if self.rows.get(container_id) is ended:
            await self._remove(container_id)

    async def _remove(self, container_id: UUID) -> None:
        self.gone[container_id] = self.rows[container_id]
        await self._set(container_id, S.DELETING)
        del self.rows[container_id]
        self.removed.append(container_id)
        self._events.add("container.deleted", container_id)
        async with self._changed:
            self._changed.notify_all()

    async def list(self, *, all_states: bool = False) -> Sequence[Container]:
        return [row for row in self.rows.values() if all_states or row.state is S.RUNNING]

    async def start(self, ref: str, *, attach: bool = False) -> None:
        row = await self.get(ref)
        if row.state in (S.FAILED, S.CREATED):
            await self._set(row.id, S.CREATING, error=None)
            self._begin(self._boot(row.id, self._first.expect(row.id) if attach else None))
            return
        if row.state is S.PARKED:
            await self.wake(ref)
            return
        await self._set(row.id, S.RUNNING, exit_code=None, started_at=now())
        self._begin(self._run(row.id, row.spec.command or ("sleep",)))

    async def pause(self, ref: str) -> None:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(f"{row.name} is not running")
        await self._set(row.id, S.PAUSED)

    async def unpause(self, ref: str) -> None:
        row = await self.get(ref)
        if row.state is not S.PAUSED:
            raise Conflict(f"{row.name} is not paused")
        await self._set(row.id, S.RUNNING)

    async def park(self, ref: str) -> None:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(f"{row.name} is not running")
        for state in (S.PARKING, S.PARKED):
            await self._set(row.id, state)

    async def wake(self, ref: str) -> None:
        row = await self.get(ref)
        if row.state is not S.PARKED:
            raise Conflict(f"{row.name} is not parked")
        for state in (S.WAKING, S.RUNNING):
            await self._set(row.id, state)

    async def fork(
        self, ref: str, count: int, *, writable_folders: bool = False
    ) -> Sequence[Container]:
        source = await self.get(ref)
        if source.state is not S.RUNNING:
            raise Conflict(f"{source.name} is not running")
        made = [
            await self.create(replace(source.spec, name=f"{source.name}-{number}"))
            for number in range(1, count + 1)
        ]
        return [await self.wait(str(one), Until.RUNNING, 10) for one in made]

    async def stop(
        self, ref: str, timeout_s: float | None = None, signal: str | None = None
    ) -> None:
        row = await self.get(ref)
        if row.state in (S.CREATED, S.EXITED, S.FAILED):
            return
        if row.state is S.PAUSED:
            await self.unpause(ref)
            row = await self.get(ref)
        CONTAINER_TRANSITIONS.check(row.state, S.EXITED)
        self.signals.append(signal)
        await self._end(row.id, signal or row.spec.stop_signal or "SIGTERM")

    async def _end(self, container_id: UUID, signal: str) -> None:
        code = 128 + int(signal if signal.isdigit() else Signals[signal])
        for session in self.sessions:
            if session.of == container_id:
                session.end(code)
                return  # whoever follows it sees to the exit
        await self._exit(container_id, code)

    async def kill(self, ref: str, signal: str) -> None:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(f"the container {row.name} is not running")
        self.signals.append(signal)
        await self._end(row.id, signal)

    async def restart(self, ref: str, timeout_s: float | None = None) -> None:
        await self.stop(ref, timeout_s)
        await self.start(ref)

    async def delete(self, ref: str, *, force: bool = False) -> None:
        row = await self.get(ref)
        if row.state in LIVING and not force:
            raise InUse(
                f"the container {row.name} is {row.state}",
                resolution=f"stop it first (warmboot stop {row.name}), or remove it with --force",
            )
        await self._remove(row.id)

    async def rename(self, ref: str, name: str) -> Container:
        row = await self.get(ref)
        if any(other.name == name for other in self.rows.values()):
            raise NameTaken(f"there is a container {name!r}")
        self.rows[row.id] = replace(row, spec=replace(row.spec, name=name))
        return self.rows[row.id]

    async def attach(self, ref: str, *, logs: bool = True, start: bool = False) -> FakeSession:
        row = await self.get(ref)
        if start and row.state is S.EXITED:
            session = self._session(row)
            await self.start(ref)
            return session
        if start and row.state in (S.CREATED, S.FAILED):
            await self.start(ref, attach=True)
        async with self._first.place(row.id) as place:
            if place is not None:
                return self._session(row)
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(f"the container {row.name} is not running")
        return self._session(row)

    def _session(self, row: Container) -> FakeSession:
        command = row.spec.command or ("sh",)
        session = FakeSession(
            command if command[0] in ("sh", "cat") else ("cat",), tty=row.spec.tty
        )
        session.of = row.id
        self.sessions.append(session)
        self._begin(self._follow_session(row.id, session))
        return session

    async def _follow_session(self, container_id: UUID, session: FakeSession) -> None:
        await session.over.wait()
        code = await session.exit_code()
        if container_id not in self.rows:
            return
        if code is not None and self.rows[container_id].state is S.RUNNING:
            await self._exit(container_id, code)


def _found_by(check: HealthCheck | None) -> Health:
    """A check is ``true`` or ``false``; any other one has found nothing yet."""
    if check is None or check.disabled:
        return Health.NONE
    return {"true": Health.HEALTHY, "false": Health.UNHEALTHY}.get(check.test[-1], Health.STARTING)
