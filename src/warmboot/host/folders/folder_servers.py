"""The file servers of this machine's VMs: each is watched, and started anew when it ends.

    serve ──▶ serves ──it ends──▶ its VMM is there: started anew      its VMM has ended: over

Meanwhile the guest waits. A folder that has gone by then is stale there, and the others are served.
Each is under the limits of its VM, and counts to what that may use.

They outlive us; the next manager starts each of them anew, which a guest does not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Collection
from time import monotonic

import structlog

from warmboot.host.folders import folder_server
from warmboot.host.folders.folder_server import Serving, Started
from warmboot.hypervisors.confinement import Confinement
from warmboot.model.errors import VmGone, WarmbootError
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import end, process_ended
from warmboot.system.procfs import open_process

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0

LONG_S = 60.0
"""One that has served so long did not end because it cannot serve: the next is there at once."""


class FolderServers:
    """``serve`` a VM's folders until it ends; ``let_go`` when we do."""

    def __init__(self, confinement: Confinement | None = None) -> None:
        self._confinement = confinement or Confinement()
        self._watched: dict[str, asyncio.Task[None]] = {}

    async def serve(self, vm_id: str, serving: Serving) -> Collection[str]:
        """Return when all of them are served but optional ones, of which it gives the ids.

        ``HostError``, ``VmGone``: see ``folder_server``.
        """
        await self._stop_watching(vm_id)
        server = await self._started(serving, all_of_them=True)
        self._begin(vm_id, serving, server)
        return server.refused

    async def serve_again(self, vm_id: str, serving: Serving) -> None:
        """The same for a VM that has mounted them, and waits: those that are there. Where it fails,
        it is tried until it succeeds."""
        try:
            await self._stop_watching(vm_id)
            server = await self._started(serving)
        except VmGone:
            raise
        except (WarmbootError, OSError, asyncio.CancelledError):
            self._begin(vm_id, serving, None)  # the former one has been ended
            raise
        self._begin(vm_id, serving, server)

    async def _started(self, serving: Serving, *, all_of_them: bool = False) -> _Server:
        limit = self._confinement.join_beside
        return _Server(await folder_server.start(serving, limit, all_of_them=all_of_them))

    def _begin(self, vm_id: str, serving: Serving, server: _Server | None) -> None:
        self._watched[vm_id] = task = asyncio.create_task(self._watch(vm_id, serving, server))

        def over(_: asyncio.Task[None]) -> None:
            if server is not None:
                server.close()  # it may have been ended before it had begun
            self._forget(vm_id, task)

        task.add_done_callback(over)

    async def let_go(self) -> None:
        for vm_id in list(self._watched):
            await self._stop_watching(vm_id)

    async def _stop_watching(self, vm_id: str) -> None:
        if (task := self._watched.pop(vm_id, None)) is not None:
            await end(task)

    def _forget(self, vm_id: str, task: asyncio.Task[None]) -> None:
        if self._watched.get(vm_id) is task:
            del self._watched[vm_id]

    async def _watch(self, vm_id: str, serving: Serving, server: _Server | None) -> None:
        """``None``: it is to be started."""
        pauses = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            if server is not None:
                began_s = monotonic()
                await server.ended()
                if monotonic() - began_s > LONG_S:
                    pauses.reset()
            if not _is_there(serving):
                return
            log.error("a VM has no file server, and gets a new one", vm=vm_id)
            await pauses.pause()
            try:
                server = await self._started(serving)
            except VmGone:
                return
            except (WarmbootError, OSError) as error:
                server = None
                log.error("the folders of a VM cannot be served", vm=vm_id, error=str(error))


class _Server:
    """A process that serves: our child, as nobody else starts one."""

    def __init__(self, started: Started) -> None:
        self.refused = started.refused
        self._pidfd = started.pidfd

    async def ended(self) -> None:
        try:
            await process_ended(self._pidfd)
            self._reap()
        finally:
            self.close()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)

    def close(self) -> None:
        """Idempotent."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _is_there(serving: Serving) -> bool:
    pidfd = open_process(serving.vmm_pid, serving.vmm_start_time_ticks)
    if pidfd is None:
        return False
    os.close(pidfd)
    return True
