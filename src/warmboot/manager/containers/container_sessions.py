"""What containers write, and sessions in them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from warmboot.docker.unexecuted import in_words
from warmboot.host.agent import HostAgent
from warmboot.host.guest import guest_sessions
from warmboot.host.guest.guest_link import GuestLink
from warmboot.manager.containers.container_states import has_reached
from warmboot.manager.containers.in_guest import InGuest
from warmboot.manager.containers.parking.exited_vms import ExitedVms
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.manager.core.event_log import EventLog
from warmboot.manager.protocols import Session, Until
from warmboot.manager.tenants.removed_tenants import RemovedTenants
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import NotFound, WarmbootError
from warmboot.model.sessions import ExecSpec, LogChunk
from warmboot.store import Store


class ContainerSessions:
    """The part of ``Containers`` that reads of them and talks with what is in them."""

    def __init__(
        self,
        store: Store,
        host: HostAgent,
        events: EventLog,
        watch: WatchContainer,
        exited: ExitedVms,
    ) -> None:
        self._store = store
        self._host = host
        self._watch = watch
        self._gone = RemovedTenants(store.containers, events)
        self.in_guest = InGuest(host, self.get, self.wait, exited)

    async def get(self, ref: str) -> Container:
        return await self._store.containers.find(ref)

    async def wait(self, ref: str, until: Until, timeout_s: float) -> Container:
        return await self._gone.wait(ref, lambda found: has_reached(found, until), timeout_s)

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
        container = await self.get(ref)
        if container.is_put_away:
            kept = await self._host.vms.kept_output.read(
                container.id, tail=tail, timestamps=timestamps, since=since, until=until
            )
            if kept is not None:
                async with contextlib.aclosing(kept):
                    async for chunk in kept:
                        yield in_words(chunk)
                return
        container = await self.in_guest(str(container.id))
        assert container.docker_id is not None
        with self._watch.streaming(container.id):
            chunks = guest_sessions.output(
                self.in_guest.link(container),
                container.docker_id,
                tty=container.spec.tty,
                follow=follow,
                tail=tail,
                timestamps=timestamps,
                since=since,
                until=until,
            )
            try:
                async with contextlib.aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
            except WarmbootError:
                if not await self._is_removed(container.id):
                    raise

    async def _is_removed(self, container_id: UUID) -> bool:
        """Or about to be: then that its log ends is no error."""
        try:
            container = await self._store.containers.get(container_id)
        except NotFound:
            return True
        return container.state is ContainerState.DELETING

    async def boot_log(self, ref: str) -> bytes:
        return await self._watch.vms.boot_log((await self.get(ref)).id)

    async def exec(self, ref: str, spec: ExecSpec) -> Session:
        container = await self.in_guest.running(ref)
        assert container.docker_id is not None
        return await guest_sessions.exec_session(
            self.in_guest.link(container), container.docker_id, spec
        )

    async def _attach(
        self,
        container: Container,
        link: GuestLink,
        docker_id: str,
        logs: bool = False,
        to_start: bool = False,
    ) -> Session:
        return await guest_sessions.attach_session(
            link,
            docker_id,
            tty=container.spec.tty,
            stdin=container.spec.stdin_open,
            logs=logs,
            to_start=to_start,
            streaming=self._watch.streaming(container.id),
        )
