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

from warmboot.host.folders import folder_server, folder_servers
from warmboot.host.folders.folder_server import Serving
from warmboot.host.folders.folder_servers import FolderServers
from warmboot.host.network.config import NetworkConfig
from warmboot.model.errors import HostError
from warmboot.system.procfs import start_ticks


async def test_a_start_that_is_cancelled_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, going_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def started(_: Serving, listener: socket.socket, vmm: int) -> int:
        begun.set()
        assert going_on.wait(60)
        os.fstat(vmm), os.fstat(listener.fileno())
        pid = os.posix_spawnp("sleep", ["sleep", "3600"], os.environ)
        seen.append(os.pidfd_open(pid))
        return os.dup(seen[0])

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

    async def start(_: Serving) -> int:
        nonlocal tried
        tried += 1
        if tried < 4:
            raise HostError("the folder /srv cannot be given to an engine of uid 1000")
        serves.set()
        return os.pidfd_open(os.getpid())

    monkeypatch.setattr(folder_server, "start", start)
    monkeypatch.setattr(folder_servers, "FIRST_PAUSE_S", 0.001)
    slot = replace(NetworkConfig(tmp_path).slot(1), namespace=Path("/proc/self/ns/net"))
    us = os.getpid(), start_ticks(os.getpid())
    servers = FolderServers()
    with pytest.raises(HostError):
        await servers.serve_again("vm", Serving(tmp_path, slot, *us, 0, ()))
    async with asyncio.timeout(60):
        await serves.wait()
    await servers.let_go()
    assert tried == 4
