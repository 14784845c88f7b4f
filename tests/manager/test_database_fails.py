"""The database refuses for a while (a full disk, a lost server): what happened is written later."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.host.vm import live_vm
from warmboot.host.vms import Vms
from warmboot.manager.containers import watch_container
from warmboot.manager.containers.bring_up import BringUp
from warmboot.manager.core import retry_until_stored
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import DiskFull, NetworkError, Unavailable, WarmbootError
from warmboot.model.sessions import ExecSpec
from warmboot.store import Store
from warmboot.store.repositories.events import EventRepository
from warmboot.store.repositories.named.containers import ContainerRepository
from warmboot.store.repositories.vms import VmRepository

EXITED = ContainerState.EXITED
FULL = DiskFull("no room is left for the database")
LOST = Unavailable("the database cannot be used")


class Refusals:
    """Makes calls of a part's method fail, those that have one of ``words`` as an argument."""

    def __init__(self, patch: pytest.MonkeyPatch, part: type, method: str, *words: str) -> None:
        self.left = 0
        self.seen = 0
        self.error: Exception = FULL
        real = getattr(part, method)

        async def refuse(*args: Any, **kwargs: Any) -> Any:
            if self.left and (not words or set(words) & {str(arg) for arg in args}):
                self.left -= 1
                self.seen += 1
                raise self.error
            return await real(*args, **kwargs)

        patch.setattr(part, method, refuse)


class Refuse(Protocol):
    def __call__(self, part: type, method: str, *words: str) -> Refusals: ...


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    monkeypatch.setattr(retry_until_stored, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(retry_until_stored, "LONGEST_PAUSE_S", 0.05)

    def make(part: type, method: str, *words: str) -> Refusals:
        return Refusals(monkeypatch, part, method, *words)

    return make


@pytest.mark.parametrize("error", [FULL, LOST], ids=["full", "lost"])
async def test_an_exit_is_written_down_when_there_is_room_again(
    manager: Manager, refuse: Refuse, error: WarmbootError
) -> None:
    refusals = refuse(ContainerRepository, "set_state", "exited")
    refusals.left, refusals.error = 3, error
    await manager.run("web", "sh", "-c", "exit 3")
    ended = await manager.wait("web", Until.EXITED)
    assert refusals.seen == 3
    assert (ended.state, ended.exit_code) == (ContainerState.EXITED, 3)
    assert await _told(manager, ended.id, "container.exited"), "with the state, not after it"


async def test_an_exit_is_told_when_there_is_room_again(manager: Manager, refuse: Refuse) -> None:
    refusals = refuse(EventRepository, "append", "container.exited")
    refusals.left = 2
    container = await manager.run("web", "sh", "-c", "exit 3")
    assert (await manager.wait("web", Until.EXITED)).exit_code == 3
    assert refusals.seen == 2
    assert await _told(manager, container.id, "container.exited")


async def test_a_stop_whose_end_is_not_written_down_is_no_success(
    manager: Manager, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "_STORED_WITHIN_S", 0.3)
    refusals = refuse(ContainerRepository, "set_state", "exited")
    await manager.run()
    refusals.left = 10**6
    with pytest.raises(Unavailable, match="not stored yet") as caught:
        await manager.containers.stop("web", 0)
    assert "warmboot inspect web" in caught.value.resolution
    with pytest.raises(Unavailable):
        await manager.containers.restart("web", 0)
    refusals.left = 0
    assert (await manager.wait("web", Until.EXITED)).exit_code == 143
    await manager.containers.stop("web", 0)


async def test_a_write_whose_answer_alone_is_lost_counts(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a server is gone right after it has taken it."""
    lost: list[ContainerState] = []
    real = Store.transaction

    @asynccontextmanager
    async def whose_answer_is_lost(store: Store) -> AsyncIterator[None]:
        async with real(store):
            yield
        if not lost and (state := (await store.containers.get(container.id)).state) is EXITED:
            lost.append(state)
            raise LOST

    monkeypatch.setattr(retry_until_stored, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 0.05)
    container = await manager.run("web", "sleep", "1000", auto_remove=True)
    monkeypatch.setattr(Store, "transaction", whose_answer_is_lost)
    await manager.containers.kill("web", "SIGKILL")
    await manager.until(lambda: _told(manager, container.id, "container.deleted"))
    assert lost == [EXITED]
    assert await _told(manager, container.id, "container.exited")


async def test_a_manager_that_stops_does_not_wait_for_the_database(
    place: Lab, refuse: Refuse
) -> None:
    refusals = refuse(ContainerRepository, "set_state", "exited")
    async with place.manager() as manager:
        refusals.left = 10**6
        await manager.run("web", "sh", "-c", "exit 3")
        await manager.until(lambda: _seen(refusals))
        ending = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - ending < 60
    refusals.left = 0
    async with place.manager() as manager:
        assert (await manager.wait("web", Until.EXITED)).exit_code == 3
        await check(manager.running)


async def test_the_death_of_a_vm_is_written_down_when_there_is_room_again(
    manager: Manager, refuse: Refuse
) -> None:
    states = refuse(ContainerRepository, "set_state", "failed")
    records = refuse(VmRepository, "update")
    events = refuse(EventRepository, "append", "container.failed")
    container = await manager.run()
    states.left = records.left = events.left = 2
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    failed = await manager.wait("web", Until.EXITED)
    assert failed.state is ContainerState.FAILED
    assert (states.seen, records.seen, events.seen) == (2, 2, 2)
    assert await _told(manager, container.id, "container.failed")


async def test_a_dead_vm_that_cannot_be_cleared_away_fails_its_container_all_the_same(
    manager: Manager, refuse: Refuse
) -> None:
    refusals = refuse(Vms, "destroy")
    refusals.error = NetworkError("the namespace stays")
    await manager.run()
    refusals.left = 1
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    assert (await manager.wait("web", Until.EXITED)).state is ContainerState.FAILED
    assert refusals.seen == 1
    await manager.containers.delete("web")
    await check(manager.running)


async def test_a_container_that_runs_is_told_to_run_when_there_is_room_again(
    manager: Manager, refuse: Refuse
) -> None:
    states = refuse(ContainerRepository, "set_state", "running")
    events = refuse(EventRepository, "append", "container.running")
    states.left = events.left = 3
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert states.seen == 3
    assert events.seen == 3
    assert await _told(manager, container.id, "container.running")
    await manager.containers.stop("web", 0)
    states.left, states.seen = 2, 0
    await manager.containers.start("web")
    assert states.seen == 2
    assert (await manager.containers.get("web")).state is ContainerState.RUNNING


async def test_a_boot_that_failed_is_told_when_there_is_room_again(
    manager: Manager, refuse: Refuse
) -> None:
    states = refuse(ContainerRepository, "set_state", "failed")
    records = refuse(VmRepository, "remove")
    events = refuse(EventRepository, "append", "container.failed")
    states.left = records.left = events.left = 2
    container = await manager.run(image="missing/image")
    assert container.state is ContainerState.FAILED
    assert (container.error or {})["code"] == "image-not-found"
    assert (states.seen, records.seen, events.seen) == (2, 2, 2)
    assert vmm_pids(manager.lab.storage) == []
    await check(manager.running)


async def test_a_vm_that_cannot_be_cleared_away_does_not_keep_a_boot_undecided(
    manager: Manager, refuse: Refuse
) -> None:
    refusals = refuse(Vms, "destroy")
    refusals.error = NetworkError("the namespace stays")
    refusals.left = 1
    container = await manager.run(image="missing/image")
    assert container.state is ContainerState.FAILED
    assert (container.error or {})["code"] == "image-not-found"
    await manager.containers.delete("web")
    await check(manager.running)


async def test_a_bug_does_not_leave_a_container_undecided(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def bug(*_: object) -> None:
        raise ZeroDivisionError("nobody thought of this")

    monkeypatch.setattr(BringUp, "_provide_image", bug)
    container = await manager.run()
    assert container.state is ContainerState.FAILED
    assert "nobody thought of this" in (container.error or {})["details"]
    await check(manager.running)


async def test_one_that_is_to_be_removed_is_when_there_is_room_again(
    manager: Manager, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 0.05)
    states = refuse(ContainerRepository, "set_state", "deleting")
    rows = refuse(ContainerRepository, "remove")
    states.left = rows.left = 2
    await manager.run("web", "true", auto_remove=True)

    async def nobody() -> bool:
        return not await manager.containers.list(all_states=True)

    await manager.until(nobody)
    assert (states.seen, rows.seen) == (2, 2)
    await check(manager.running)


async def _told(manager: Manager, container_id: object, kind: str) -> bool:
    return kind in [event.kind for event in await manager.events_of(container_id)]


async def _seen(refusals: Refusals) -> bool:
    return refusals.seen > 2


async def test_a_vm_that_stood_still_goes_on_though_the_database_takes_nothing(
    manager: Manager, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_vm, "LOOK_AGAIN_S", 0.05)
    refusals = refuse(ContainerRepository, "update")
    container = await manager.run()

    async def stalled() -> bool:
        return manager.host.vms.stalled == 1

    async def goes_on() -> bool:
        return manager.host.vms.stalled == 0

    refusals.left = 1_000_000
    manager.lab.set(disk_full="always")
    writing = asyncio.ensure_future(manager.containers.exec("web", ExecSpec(("true",))))
    await manager.until(stalled)
    await manager.until(lambda: _seen(refusals))
    manager.lab.set(disk_full="never")
    await manager.until(goes_on)
    await (await asyncio.wait_for(writing, 60)).close()
    assert refusals.left, "and all the time it has refused"
    refusals.left = 0
    await manager.until(lambda: _told(manager, container.id, "container.resumed"))
    kinds = [event.kind for event in await manager.events_of(container.id)]
    assert kinds.index("container.stalled") < kinds.index("container.resumed")
    assert (await manager.containers.get("web")).error is None
