"""A VM that is there and does not answer is kept, told, and ended by its user only."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from tests.support.eventually import until
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.api.schemas.container_responses import ContainerOut
from warmboot.host.guest.guest_link import GuestLink
from warmboot.host.vm import unresponsive
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import GuestUnreachable, NotFound, VmUnresponsive
from warmboot.model.journal.event import Event
from warmboot.model.sessions import ExecSpec


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unresponsive, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(unresponsive, "LONGEST_PAUSE_S", 0.05)


async def until_reaped(pid: int) -> None:
    """It is nobody's child here: the kernel reaps it, right after it has told that it has ended."""
    await until(lambda: not Path(f"/proc/{pid}").exists(), "it is no more")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def stopped(place: Lab, name: str = "web", *command: str, **fields: object) -> int:
    """The pid of a VMM that was stopped while no manager ran."""
    async with place.manager() as manager:
        await manager.run(name, *command, **fields)
        pid = await manager.vm_pid(name)
    os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.fixture
async def pid(place: Lab) -> int:
    return await stopped(place)


@pytest.fixture
async def heir(place: Lab, pid: int) -> AsyncIterator[Manager]:
    """The next manager, beside a VMM that is stopped."""
    async with place.manager() as manager:
        yield manager
        await check(manager.running)
        for container in await manager.containers.list(all_states=True):
            await manager.containers.delete(str(container.id), force=True)
        assert vmm_pids(place.storage) == []


async def told(manager: Manager, kind: str) -> Event:
    web = await manager.containers.get("web")

    async def find() -> Event | None:
        return next((e for e in await manager.events_of(web.id) if e.kind == kind), None)

    return await manager.until(find, kind)


async def test_it_is_kept_and_shown_as_not_answering(heir: Manager, pid: int) -> None:
    assert state_of(pid) == "T"
    event = await told(heir, "container.unresponsive")
    assert event.data["error"]["code"] == "vm-unresponsive"
    web = await heir.containers.get("web")
    assert web.state is ContainerState.RUNNING
    assert not ContainerOut.of(web).answering
    assert web.error is not None
    assert "SIGSTOP" in web.error["details"]
    assert f"kill -CONT {pid}" in web.error["resolution"]
    assert "contact with container web: the VM of container web does not answer" in [
        one.summary for one in await heir.services.system.doctor()
    ]
    os.kill(pid, signal.SIGCONT)
    await told(heir, "container.answering")


async def test_it_is_adopted_when_it_answers_again(heir: Manager, pid: int) -> None:
    await told(heir, "container.unresponsive")
    os.kill(pid, signal.SIGCONT)
    event = await told(heir, "container.answering")
    assert event.data["seconds"] > 0
    web = await heir.containers.get("web")
    assert web.error is None
    assert ContainerOut.of(web).answering
    session = await heir.containers.exec("web", ExecSpec(("echo", "alive")))
    assert b"".join([chunk.data async for chunk in session]) == b"alive\n"
    await session.close()
    await heir.containers.kill("web", "SIGKILL")  # it is watched, too
    assert (await heir.wait("web", Until.EXITED)).exit_code == 137
    assert not [c for c in await heir.services.system.doctor() if c.name == "unsettled"]


async def test_who_would_have_to_ask_it_is_told_at_once(heir: Manager, pid: int) -> None:
    for ask in (
        heir.containers.exec("web", ExecSpec(("true",))),
        heir.output("web"),
        heir.containers.kill("web", "SIGHUP"),
    ):
        with pytest.raises(VmUnresponsive, match="does not answer"):
            await asyncio.wait_for(ask, 60)
    os.kill(pid, signal.SIGCONT)
    await told(heir, "container.answering")


async def test_its_user_may_remove_it(heir: Manager, pid: int) -> None:
    await asyncio.wait_for(heir.containers.delete("web", force=True), 60)
    await until_reaped(pid)
    with pytest.raises(NotFound):
        await heir.containers.get("web")


async def test_its_user_may_stop_it(heir: Manager, pid: int) -> None:
    await asyncio.wait_for(heir.containers.stop("web", 0.1), 60)
    web = await heir.containers.get("web")
    assert (web.state, web.exit_code, web.error) == (ContainerState.EXITED, 137, None)
    await until_reaped(pid)
    await heir.containers.start("web")
    assert (await heir.wait("web", Until.RUNNING)).state is ContainerState.RUNNING


async def test_its_user_may_kill_it(heir: Manager, pid: int) -> None:
    await asyncio.wait_for(heir.containers.kill("web", "SIGKILL"), 60)
    assert (await heir.containers.get("web")).state is ContainerState.EXITED
    await until_reaped(pid)


async def test_a_stop_waits_for_it_as_long_as_it_may(heir: Manager, pid: int) -> None:
    stopping = asyncio.create_task(heir.containers.stop("web", 60))
    await told(heir, "container.unresponsive")
    os.kill(pid, signal.SIGCONT)
    await asyncio.wait_for(stopping, 60)
    web = await heir.containers.get("web")
    assert web.state is ContainerState.EXITED
    assert await heir.output("web") == b"", "its VM is there"


async def test_one_that_dies_while_it_does_not_answer_has_failed(heir: Manager, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    event = await told(heir, "container.failed")
    assert event.data["error"]["code"] == "vm-gone"


async def test_the_manager_after_next_finds_it_too(place: Lab, pid: int) -> None:
    for _ in range(2):
        async with place.manager() as manager:
            error = (await manager.containers.get("web")).error
            assert error is not None
            assert error["code"] == VmUnresponsive.code
    os.kill(pid, signal.SIGCONT)
    async with place.manager() as manager:
        assert (await manager.containers.get("web")).error is None
        await check(manager.running)
        await manager.containers.delete("web", force=True)


async def test_one_whose_container_had_exited_is_kept_too(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.run("web", "echo", "precious")
        await manager.wait("web", Until.EXITED)
        pid = await manager.vm_pid("web")
    os.kill(pid, signal.SIGSTOP)
    async with place.manager() as manager:
        await told(manager, "container.unresponsive")
        with pytest.raises(VmUnresponsive):
            await manager.containers.start("web")
        os.kill(pid, signal.SIGCONT)
        await told(manager, "container.answering")
        assert await manager.output("web") == b"precious\n"
        await manager.containers.delete("web", force=True)


async def test_one_that_cannot_be_attached_to_for_whatever_reason_is_kept(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as manager:
        await manager.run()
        pid, hypervisor = await manager.vm_pid("web"), type(manager.host.hypervisor)
    attach = hypervisor.attach

    async def broken(*_: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(hypervisor, "attach", broken)
    async with place.manager() as manager:
        error = (await told(manager, "container.unresponsive")).data["error"]
        assert "a mistake of ours" in error["details"]
        assert state_of(pid) in "SR"
        monkeypatch.setattr(hypervisor, "attach", attach)
        await told(manager, "container.answering")
        await check(manager.running)
        await manager.containers.delete("web", force=True)


# -- while its manager runs ------------------------------------------------------------------------

SOON_S = 0.9


@pytest.fixture
async def watching(place: Lab) -> AsyncIterator[Manager]:
    """A manager with a container, that waits for no answer as long as others."""
    async with place.manager(unresponsive_after_s=SOON_S) as manager:
        await manager.run("web")
        yield manager
        await check(manager.running)
        for container in await manager.containers.list(all_states=True):
            await manager.containers.delete(str(container.id), force=True)
        assert vmm_pids(place.storage) == []


async def frozen(manager: Manager) -> int:
    pid = await manager.vm_pid("web")
    os.kill(pid, signal.SIGSTOP)

    async def shown() -> bool:  # with this reason: on a busy machine it may have been late before
        error = (await manager.containers.get("web")).error or {}
        return f"kill -CONT {pid}" in error.get("resolution", "")

    await manager.until(shown, "it is shown as stopped")
    return pid


async def test_one_that_is_stopped_under_its_manager_is_shown_and_goes_on(
    watching: Manager,
) -> None:
    session = await watching.containers.exec("web", ExecSpec(("cat",), stdin=True))
    pid = await frozen(watching)
    web = await watching.containers.get("web")
    assert web.state is ContainerState.RUNNING
    assert not ContainerOut.of(web).answering
    assert web.error is not None
    assert f"kill -CONT {pid}" in web.error["resolution"]
    assert "contact with container web: the VM of container web does not answer" in [
        one.summary for one in await watching.services.system.doctor()
    ]
    with pytest.raises(VmUnresponsive):
        await asyncio.wait_for(watching.containers.exec("web", ExecSpec(("true",))), 60)

    os.kill(pid, signal.SIGCONT)
    await told(watching, "container.answering")

    async def answers() -> bool:  # on a busy machine it may have been told before, or be late again
        web = await watching.containers.get("web")
        return web.error is None and ContainerOut.of(web).answering

    await watching.until(answers, "it is shown as answering")
    await session.write(b"kept")
    await session.write_eof()
    assert b"".join([chunk.data async for chunk in session]) == b"kept", "its session, too"
    await session.close()


async def test_one_that_is_stopped_again_is_shown_again(watching: Manager) -> None:
    pid = await watching.vm_pid("web")

    async def told_as(answering: bool) -> bool:
        return ContainerOut.of(await watching.containers.get("web")).answering is answering

    for _ in range(2):
        os.kill(pid, signal.SIGSTOP)
        await watching.until(partial(told_as, False), "it does not answer")
        os.kill(pid, signal.SIGCONT)
        await watching.until(partial(told_as, True), "it answers")


async def test_one_whose_guest_is_silent_is_shown_and_kept(
    watching: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulse = GuestLink.pulse

    async def none(link: GuestLink, timeout_s: float) -> None:
        raise GuestUnreachable("the guest agent does not answer", details="connection refused")

    monkeypatch.setattr(GuestLink, "pulse", none)

    async def shown() -> bool:
        error = (await watching.containers.get("web")).error or {}
        return "connection refused" in error.get("details", "")

    await watching.until(shown, "it is shown with the reason")
    assert state_of(await watching.vm_pid("web")) in "SR"
    monkeypatch.setattr(GuestLink, "pulse", pulse)
    await told(watching, "container.answering")


async def test_one_that_answers_late_is_not_accused(
    watching: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three times it does not."""
    pulse, calls, heard = GuestLink.pulse, itertools.count(1), asyncio.Event()

    async def late(link: GuestLink, timeout_s: float) -> None:
        if (call := next(calls)) % unresponsive.ASKED:
            raise GuestUnreachable("the guest agent does not answer")
        await pulse(link, 60)
        if call >= 2 * unresponsive.ASKED:
            heard.set()

    async def accused() -> int:
        web = await watching.containers.get("web")
        kinds = [event.kind for event in await watching.events_of(web.id)]
        return kinds.count("container.unresponsive")

    async def cleared() -> bool:
        return (await watching.containers.get("web")).error is None

    monkeypatch.setattr(GuestLink, "pulse", late)
    before = await accused()  # on a busy machine it may have been late indeed
    await asyncio.wait_for(heard.wait(), 60)
    await watching.until(cleared)
    assert await accused() == before


@pytest.mark.parametrize("how", ["stop", "kill", "remove"])
async def test_its_user_may_end_one_that_is_stopped_under_its_manager(
    watching: Manager, how: str
) -> None:
    pid = await frozen(watching)
    containers = watching.containers
    if how == "remove":
        await asyncio.wait_for(containers.delete("web", force=True), 60)
    else:
        ending = containers.stop("web", 0.1) if how == "stop" else containers.kill("web", "SIGKILL")
        await asyncio.wait_for(ending, 60)
        web = await containers.get("web")
        assert (web.state, web.exit_code, web.error) == (ContainerState.EXITED, 137, None)
        kinds = [event.kind for event in await watching.events_of(web.id)]
        assert "container.failed" not in kinds
    await until_reaped(pid)
    assert not [c for c in await watching.services.system.doctor() if c.name == "unsettled"]


async def test_one_that_dies_silent_under_its_manager_has_failed(watching: Manager) -> None:
    os.kill(await frozen(watching), signal.SIGKILL)
    event = await told(watching, "container.failed")
    assert event.data["error"]["code"] == "vm-gone"


async def test_a_manager_ends_beside_one_that_is_stopped(place: Lab) -> None:
    async with place.manager(unresponsive_after_s=SOON_S) as manager:
        await manager.run("web")
        pid = await frozen(manager)
    async with place.manager() as manager:
        await told(manager, "container.unresponsive")
        os.kill(pid, signal.SIGCONT)
        await told(manager, "container.answering")
        await manager.containers.delete("web", force=True)
