"""A guest that hangs, or whose VM is gone: nobody waits for it for ever, and all say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.docker import client
from warmboot.docker.client import DockerClient
from warmboot.host.guest import guest_connections, guest_sessions
from warmboot.host.guest.guest_link import AGENT_PORT, GuestLink
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import GuestUnreachable, NotFound, VmGone
from warmboot.model.sessions import ExecSpec
from warmboot.model.vm import GuestAddress


class Hanging:
    """A call into the guest that never returns."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def __call__(self, *_: object) -> None:
        self.begun.set()
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def guest_that_listens_only(path: Path) -> AsyncIterator[GuestLink]:
    """It takes a request, and then nothing comes."""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"OK 1\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(listen, path)
    link = GuestLink("vm-1", GuestAddress(AGENT_PORT, vsock_socket=path), "token")
    try:
        yield link
    finally:
        await link.close()
        server.close()


# -- a removal does not wait -----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["stop", "restart"])
async def test_a_removal_does_not_wait_for_a_stop(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    hanging = Hanging()
    monkeypatch.setattr(DockerClient, "stop", hanging)
    await manager.run()
    act = getattr(manager.containers, what)
    stopping = asyncio.create_task(act("web", 3600))
    waiting = asyncio.create_task(act("web", 3600))
    await hanging.begun.wait()
    began = time.monotonic()
    await manager.containers.delete("web", force=True)
    assert time.monotonic() - began < 60
    assert vmm_pids(manager.lab.storage) == []
    results = await asyncio.wait_for(
        asyncio.gather(stopping, waiting, return_exceptions=True), timeout=60
    )
    gone = [result for result in results if result is not None]
    assert all(isinstance(result, NotFound) for result in gone), results
    if what == "stop":
        assert results[0] is None, "what is removed has been stopped"
    await check(manager.running)


async def test_a_removal_does_not_wait_for_a_start(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await manager.run()
    await manager.containers.stop("web", 0)
    hanging = Hanging()
    monkeypatch.setattr(DockerClient, "start", hanging)
    starting = asyncio.create_task(manager.containers.start("web"))
    await hanging.begun.wait()
    await asyncio.wait_for(manager.containers.delete("web"), timeout=60)
    with pytest.raises(NotFound, match="being removed"):
        await asyncio.wait_for(starting, timeout=60)
    await check(manager.running)


async def test_a_removal_does_not_wait_for_a_guest_that_hangs(manager: Manager) -> None:
    await manager.run()
    os.kill(await manager.vm_pid("web"), signal.SIGSTOP)
    stopping = asyncio.create_task(manager.containers.stop("web", 3600))
    await asyncio.sleep(0.1)  # until the stop has it
    await asyncio.wait_for(manager.containers.delete("web", force=True), timeout=60)
    await asyncio.wait({stopping}, timeout=60)
    assert stopping.done()
    assert vmm_pids(manager.lab.storage) == []


async def test_a_second_stop_finds_it_stopped(manager: Manager) -> None:
    await manager.run()
    await asyncio.gather(*(manager.containers.stop("web", 0) for _ in range(3)))
    assert (await manager.containers.get("web")).state is ContainerState.EXITED


# -- a guest that does not answer ------------------------------------------------------------------


async def test_a_stop_has_an_end_even_if_the_guest_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "STOP_MARGIN_S", 0.2)
    async with guest_that_listens_only(tmp_path / "s") as link:
        with pytest.raises(GuestUnreachable) as caught:
            await asyncio.wait_for(link.docker.stop("abc", 0.1), timeout=60)
    assert caught.value.details == "stopping the container: no answer came in time"
    assert "warmboot rm -f" in caught.value.resolution


async def test_who_asks_a_guest_that_does_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest_connections, "ANSWER_TIMEOUT_S", 0.2)
    async with guest_that_listens_only(tmp_path / "s") as link:
        with pytest.raises(GuestUnreachable, match="vm-1 does not answer"):
            await asyncio.wait_for(link.docker.inspect("abc"), timeout=60)
        with pytest.raises(GuestUnreachable, match="vm-1 does not answer"):
            async for _ in guest_sessions.output(link, "abc", tty=False):
                pass


async def test_no_words_of_a_library_are_in_what_is_told(tmp_path: Path) -> None:
    link = GuestLink("vm-1", GuestAddress(AGENT_PORT, vsock_socket=tmp_path / "none"), "token")
    try:
        for ask in (link.docker.inspect, link.docker.has_image):
            with pytest.raises(GuestUnreachable) as caught:
                await ask("abc")
            for word in ("guest:80", "ssl", "Errno", "Error("):
                assert word not in str(caught.value)
            assert "no such file or directory" in caught.value.details
            assert caught.value.resolution
    finally:
        await link.close()


# -- a VM that is gone -----------------------------------------------------------------------------


async def test_the_logs_of_a_dead_vm_are_on_its_disk_and_so_it_is_told(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo precious; sleep 1000")
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    await manager.wait("web", Until.EXITED)
    for ask in (manager.output("web"), manager.containers.attach("web")):
        with pytest.raises(VmGone, match="the VM of container web is gone") as caught:
            await ask
        assert "ended unexpectedly" in caught.value.details
        assert "its disk is kept" in caught.value.details
        assert "`warmboot start web`" in caught.value.resolution
        assert "`warmboot logs web`" in caught.value.resolution
    with pytest.raises(VmGone):
        await manager.containers.exec("web", ExecSpec(("true",)))


async def test_the_same_is_told_of_one_that_had_exited_before(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.run("web", "echo", "precious")
        await manager.wait("web", Until.EXITED)
        place.kill_everything()
        with pytest.raises(VmGone) as caught:
            await manager.output("web")
        assert "after the container had" in caught.value.details
    async with place.manager() as manager:
        with pytest.raises(VmGone) as caught:
            await manager.output("web")
        assert "`warmboot start web`" in caught.value.resolution
        await manager.containers.start("web")
        assert await manager.output("web", follow=True) == b"precious\n"
