"""What is asked of containers in memory: how they are, their output, and commands in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from tests.support.fake_sessions import FakeSession

from warmboot.manager.protocols import Until
from warmboot.model.container import Container
from warmboot.model.container import ContainerState as S
from warmboot.model.errors import Conflict, NotFound
from warmboot.model.sessions import ExecSpec, LogChunk
from warmboot.model.tenants.container_options import Health


class FakeContainerSessions:
    """``FakeContainers`` without what changes a container, as ``ContainerSessions`` is."""

    def __init__(self) -> None:
        self.rows: dict[UUID, Container] = {}
        self.gone: dict[UUID, Container] = {}
        self.output: dict[UUID, list[LogChunk]] = {}
        self.sessions: list[FakeSession] = []
        self.execs: list[ExecSpec] = []
        self.asked_times: tuple[datetime | None, datetime | None] = (None, None)
        self.longest_wait_s = 3600.0
        self._readers: Counter[UUID] = Counter()
        self._changed = asyncio.Condition()

    async def get(self, ref: str) -> Container:
        matches = [row for row in self.rows.values() if ref in (str(row.id), row.name)]
        if not matches:
            wanted = ref.lower()
            matches = [
                row
                for row in self.rows.values()
                if str(row.id).startswith(wanted) or row.id.hex.startswith(wanted)
            ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise Conflict(f"{ref} is the beginning of several ids", resolution="give more of it")
        raise NotFound(f"no container {ref}", resolution="list them with: warmboot ps -a")

    async def wait(self, ref: str, until: Until, timeout_s: float) -> Container:
        with contextlib.suppress(NotFound):
            ref = str((await self.get(ref)).id)
        row = self.gone[UUID(ref)] if ref in map(str, self.gone) else await self.get(ref)
        holds = {
            Until.BOOTED: {S.RUNNING, S.PAUSED, S.EXITED},
            Until.RUNNING: {S.RUNNING, S.PAUSED, S.EXITED},
            Until.HEALTHY: {S.EXITED},
            Until.EXITED: {S.EXITED},
        }[until] | {S.FAILED, S.DELETING}

        def done() -> bool:
            nonlocal row
            row = self.rows.get(row.id, row)
            well = until is Until.HEALTHY and row.health in (Health.HEALTHY, Health.NONE)
            return row.id not in self.rows or row.state in holds or well

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(timeout_s, self.longest_wait_s)), self._changed:
                await self._changed.wait_for(done)
        return row

    async def boot_log(self, ref: str) -> bytes:
        await self.get(ref)
        return b"Linux version 6.12\r\nbooted\n"

    async def logs(
        self,
        ref: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        timestamps: bool = False,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> AsyncIterator[LogChunk]:
        row = await self.get(ref)
        self.asked_times = (since, until)
        self._readers[row.id] += 1
        try:
            async for chunk in self._logs(row, follow, tail, timestamps):
                yield chunk
        finally:
            self._readers[row.id] -= 1

    async def _logs(
        self, row: Container, follow: bool, tail: int | None, timestamps: bool
    ) -> AsyncIterator[LogChunk]:
        written = self.output[row.id]
        seen = 0 if tail is None else max(0, len(written) - tail)
        while True:
            ended = row.id not in self.rows or self.rows[row.id].state in (S.EXITED, S.FAILED)
            while seen < len(written):
                chunk = written[seen]
                stamp = b"2026-01-24T12:00:00.000000000Z " if timestamps else b""
                yield LogChunk(chunk.stream, stamp + chunk.data)
                seen += 1
            if not follow or ended:
                return
            await asyncio.sleep(0.005)  # a follower looks again

    async def exec(self, ref: str, spec: ExecSpec) -> FakeSession:
        row = await self.get(ref)
        if row.state is not S.RUNNING:
            raise Conflict(
                f"the container {row.name} is not running",
                resolution=f"start it with: warmboot start {row.name}",
            )
        self.execs.append(spec)
        if spec.detach:
            return FakeSession(("exit", "0"), tty=False)
        greeting = "".join(f"{entry}\n" for entry in spec.environment).encode()
        session = FakeSession(spec.command, tty=spec.tty, greeting=greeting)
        self.sessions.append(session)
        return session

    def _write(self, container_id: UUID, chunk: LogChunk) -> None:
        self.output[container_id].append(chunk)
        for session in self._attached(container_id):
            session.put(chunk)

    def _attached(self, container_id: UUID) -> list[FakeSession]:
        return [session for session in self.sessions if session.of == container_id]
