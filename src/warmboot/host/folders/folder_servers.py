"""The file servers of this machine's VMs: each is watched, and started anew when it ends.

    serve ──▶ serves ──it ends──▶ its VMM is there: started anew      its VMM has ended: over

Meanwhile the guest waits. They outlive us; the next manager starts each of them anew, which a guest
does not notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import structlog

from warmboot.host.folders import folder_server
from warmboot.host.folders.folder_server import Serving
from warmboot.model.errors import VmGone, WarmbootError
from warmboot.system.back_off import BackOff
from warmboot.system.concurrency import end, process_ended
from warmboot.system.procfs import open_process

log = structlog.get_logger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0


class FolderServers:
    """``serve`` a VM's folders until it ends; ``let_go`` when we do."""

    def __init__(self) -> None:
        self._watched: dict[str, asyncio.Task[None]] = {}

    async def serve(self, vm_id: str, serving: Serving) -> None:
        """Return when they are served. ``HostError``, ``VmGone``: see ``folder_server``."""
        await self._stop_watching(vm_id)
        self._begin(vm_id, serving, await folder_server.start(serving))

    async def serve_again(self, vm_id: str, serving: Serving) -> None:
        """The same for a VM that has mounted them, and waits: where it fails, it is tried until it
        succeeds."""
        try:
            await self.serve(vm_id, serving)
        except VmGone:
            raise
        except (WarmbootError, OSError):
            self._begin(vm_id, serving, None)
            raise

    def _begin(self, vm_id: str, serving: Serving, pidfd: int | None) -> None:
        self._watched[vm_id] = task = asyncio.create_task(self._watch(vm_id, serving, pidfd))
        task.add_done_callback(lambda _: self._forget(vm_id, task))

    async def let_go(self) -> None:
        for vm_id in list(self._watched):
            await self._stop_watching(vm_id)

    async def _stop_watching(self, vm_id: str) -> None:
        if (task := self._watched.pop(vm_id, None)) is not None:
            await end(task)

    def _forget(self, vm_id: str, task: asyncio.Task[None]) -> None:
        if self._watched.get(vm_id) is task:
            del self._watched[vm_id]

    async def _watch(self, vm_id: str, serving: Serving, pidfd: int | None) -> None:
        """``None``: it is to be started."""
        pauses = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            if pidfd is not None:
                try:
                    await process_ended(pidfd)
                    _reap(pidfd)
                finally:
                    os.close(pidfd)
            while True:
                if not _is_there(serving):
                    return
                log.error("a VM has no file server, and gets a new one", vm=vm_id)
                await pauses.pause()
                try:
                    pidfd = await folder_server.start(serving)
                    break
                except VmGone:
                    return
                except (WarmbootError, OSError) as error:
                    log.error("the folders of a VM cannot be served", vm=vm_id, error=str(error))


def _reap(pidfd: int) -> None:
    """It is our child, as nobody else starts one."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def _is_there(serving: Serving) -> bool:
    pidfd = open_process(serving.vmm_pid, serving.vmm_start_time_ticks)
    if pidfd is None:
        return False
    os.close(pidfd)
    return True
