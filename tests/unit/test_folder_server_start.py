"""The start of a process that serves folders, which somebody does not want any more."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from warmboot.host.folders import folder_server, folder_servers
from warmboot.host.folders.folder_server import Limit, Serving, Started, no_limit
from warmboot.host.folders.folder_servers import FolderServers
from warmboot.host.network.config import NetworkConfig
from warmboot.model.errors import HostError
from warmboot.model.tenants.host_folder import HostFolder
from warmboot.system.back_off import BackOff
from warmboot.system.procfs import start_ticks


async def test_a_start_that_is_cancelled_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def started(
        _: Serving, listener: socket.socket, vmm: int, limit: Limit, *, all_of_them: bool
    ) -> Started:
        assert limit is no_limit and all_of_them
        begun.set()
        assert going_on.wait(60)
        os.fstat(vmm), os.fstat(listener.fileno())
        pid = os.posix_spawnp("sleep", ["sleep", "3600"], os.environ)
        seen.append(os.pidfd_open(pid))
        return Started(os.dup(seen[0]))

    async def listening(*_: Any) -> socket.socket:
        return socket.create_server(("127.0.0.1", 0))

    monkeypatch.setattr(folder_server, "start_at", started)
    monkeypatch.setattr(folder_server, "in_thread", listening)
    monkeypatch.setattr(folder_server, "open_process", lambda *_: os.pidfd_open(os.getpid()))
    slot = replace(NetworkConfig(tmp_path).slot(1), namespace=Path("/proc/self/ns/net"))
    starting = asyncio.create_task(
        folder_server.start(Serving(tmp_path, slot, os.getpid(), 0, 0, ()))
    )
    assert await asyncio.to_thread(begun.wait, 60)
    starting.cancel()
    asyncio.get_running_loop().call_soon(going_on.set)
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert select.select(seen, [], [], 0)[0], "it has ended"
    with pytest.raises(ChildProcessError):
        reap(seen[0])
    os.close(seen[0])


def reap(pidfd: int) -> None:
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


async def test_an_adopted_vm_whose_folders_cannot_be_served_gets_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is missing while a manager starts, which is no reason to wait for the next."""
    serves, tried = asyncio.Event(), 0

    async def start(_: Serving, limit: Limit, *, all_of_them: bool) -> Started:
        nonlocal tried
        assert not all_of_them, "those that are there are served"
        tried += 1
        if tried < 4:
            raise HostError("the folder /srv cannot be given to a VM of uid 1000")
        serves.set()
        return Started(os.pidfd_open(os.getpid()))

    monkeypatch.setattr(folder_server, "start", start)
    monkeypatch.setattr(folder_servers, "FIRST_PAUSE_S", 0.001)
    servers = FolderServers()
    with pytest.raises(HostError):
        await servers.serve_again("vm", to_us(tmp_path))
    async with asyncio.timeout(60):
        await serves.wait()
    await servers.let_go()
    assert tried == 4


async def test_a_vm_whose_server_is_not_started_anew_after_all_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for it is gone, and the former one has been ended for it."""
    begun, serves, tried = asyncio.Event(), asyncio.Event(), 0

    async def start(_: Serving, limit: Limit, *, all_of_them: bool) -> Started:
        nonlocal tried
        tried += 1
        if tried == 1:
            begun.set()
            await asyncio.Event().wait()
        serves.set()
        return Started(os.pidfd_open(os.getpid()))

    monkeypatch.setattr(folder_server, "start", start)
    monkeypatch.setattr(folder_servers, "FIRST_PAUSE_S", 0.001)
    servers = FolderServers()
    asking = asyncio.create_task(servers.serve_again("vm", to_us(tmp_path)))
    async with asyncio.timeout(60):
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await serves.wait()
    await servers.let_go()


def ended() -> int:
    """The pidfd of a process that has ended, or is about to."""
    return os.pidfd_open(os.posix_spawnp("true", ["true"], os.environ))


def to_us(folder: Path, *folders: HostFolder) -> Serving:
    """To a VM whose VMM is this process."""
    slot = replace(NetworkConfig(folder).slot(1), namespace=Path("/proc/self/ns/net"))
    return Serving(folder, slot, os.getpid(), start_ticks(os.getpid()), 0, folders)


def test_a_folder_that_has_gone_is_told_first_and_does_not_take_others_away_later(
    tmp_path: Path,
) -> None:
    gone, there = HostFolder("/srv/gone"), HostFolder("/srv/there")
    serving, answer = to_us(tmp_path, gone, there), {"refused": {gone.id: "No such file"}}
    with pytest.raises(HostError, match="/srv/gone"):
        folder_server._checked(serving, answer, True)
    assert folder_server._checked(serving, answer, False) == {gone.id}
    optional = to_us(tmp_path, replace(gone, optional=True), there)
    assert folder_server._checked(optional, answer, True) == {gone.id}


async def test_a_server_that_is_not_watched_any_more_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the watch is ended in the moment in which it begins."""
    pidfds: list[int] = []

    async def start(_: Serving, limit: Limit, *, all_of_them: bool) -> Started:
        assert all_of_them
        pidfds.append(os.pidfd_open(os.getpid()))
        return Started(pidfds[-1])

    monkeypatch.setattr(folder_server, "start", start)
    servers = FolderServers()
    await servers.serve("vm", to_us(tmp_path))
    await servers.let_go()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfds[0])


@pytest.mark.parametrize(("long_s", "resets"), [(0.0, True), (3600.0, False)])
async def test_pauses_are_short_again_after_a_server_that_served_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_s: float, resets: bool
) -> None:
    """And not after one that ends as soon as it has begun."""
    started, enough, pauses = 0, asyncio.Event(), []

    class Told(BackOff):
        @override
        async def pause(self) -> None:
            pauses.append(self.take_s())
            await asyncio.sleep(0)

    async def start(_: Serving, limit: Limit, *, all_of_them: bool) -> Started:
        nonlocal started
        started += 1
        if started == 4:
            enough.set()
            return Started(os.pidfd_open(os.getpid()))
        return Started(ended())

    monkeypatch.setattr(folder_server, "start", start)
    monkeypatch.setattr(folder_servers, "BackOff", Told)
    monkeypatch.setattr(folder_servers, "LONG_S", long_s)
    servers = FolderServers()
    await servers.serve("vm", to_us(tmp_path))
    async with asyncio.timeout(60):
        await enough.wait()
    await servers.let_go()
    first_s = folder_servers.FIRST_PAUSE_S
    assert pauses == ([first_s] * 3 if resets else [first_s, 2 * first_s, 4 * first_s])
