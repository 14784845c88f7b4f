"""Containers that are removed: at any moment, by themselves, and by the next manager."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.manager.containers import watch_container
from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import (
    InUse,
    NotFound,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot


async def test_it_can_be_deleted_while_it_is_created(manager: Manager) -> None:
    manager.lab.set(docker_s=600)
    container_id = await manager.create()
    await manager.until(lambda: manager.vmm_runs(container_id))
    with pytest.raises(InUse):
        await manager.containers.delete("web")
    began = time.monotonic()
    await manager.containers.delete("web", force=True)
    assert time.monotonic() - began < 60
    with pytest.raises(NotFound):
        await manager.containers.get("web")
    assert vmm_pids(manager.lab.storage) == []
    await check(manager.running)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15])
async def test_it_can_be_deleted_at_any_moment(
    snapshot: RuntimeSnapshot, manager: Manager, delay: float
) -> None:
    await manager.create()
    await asyncio.sleep(delay)
    await manager.containers.delete("web", force=True)
    assert await manager.containers.list(all_states=True) == ()
    await check(manager.running)
    assert vmm_pids(manager.lab.storage) == []


async def test_a_running_container_is_deleted_only_by_force(manager: Manager) -> None:
    await manager.run()
    with pytest.raises(InUse):
        await manager.containers.delete("web")
    await manager.containers.delete("web", force=True)
    assert vmm_pids(manager.lab.storage) == []


async def test_two_deletes_at_once_are_both_fine(manager: Manager) -> None:
    await manager.run()
    results = await asyncio.gather(
        *(manager.containers.delete("web", force=True) for _ in range(3)), return_exceptions=True
    )
    assert [r for r in results if r is not None and not isinstance(r, NotFound)] == []
    assert await manager.containers.list(all_states=True) == ()
    await check(manager.running)


async def test_delete_and_start_at_once_leave_nothing(manager: Manager) -> None:
    for number in range(6):
        name = f"c{number}"
        await manager.run(name, image="missing/image")
        await asyncio.gather(
            manager.containers.start(name),
            manager.containers.delete(name, force=True),
            return_exceptions=True,
        )
        with pytest.raises(NotFound):
            await manager.containers.get(name)
    await asyncio.sleep(0.3)  # what a start had still under way would come up
    await check(manager.running)
    assert vmm_pids(manager.lab.storage) == []


async def test_stop_delete_and_restart_at_once_leave_nothing(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "_STORED_WITHIN_S", 600.0)
    await manager.run()
    async with asyncio.timeout(60):  # nobody waits for an exit that nobody watches any more
        await asyncio.gather(
            manager.containers.stop("web", 1),
            manager.containers.restart("web", 1),
            manager.containers.delete("web", force=True),
            return_exceptions=True,
        )
    assert await manager.containers.list(all_states=True) == ()
    await check(manager.running)


async def test_a_delete_does_not_wait_for_a_stop(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "trap '' TERM; sleep 1000")
    stopping = asyncio.create_task(manager.containers.stop("web", 600))
    await asyncio.sleep(0.2)  # until the stop has it
    async with asyncio.timeout(60):
        await manager.containers.delete("web", force=True)
        await asyncio.gather(stopping, return_exceptions=True)
    assert await manager.containers.list(all_states=True) == ()


async def test_a_container_that_is_to_be_removed_is_when_it_has_ended(manager: Manager) -> None:
    container_id = await manager.create("web", "sh", "-c", "echo bye; exit 3", auto_remove=True)
    assert await manager.output("web", follow=True) == b"bye\n"
    ended = await manager.containers.wait(str(container_id), Until.EXITED, 60)
    assert ended.exit_code == 3

    async def gone() -> bool | None:
        return True if not await manager.containers.list(all_states=True) else None

    await manager.until(gone)
    await check(manager.running)
    late = await manager.containers.wait(str(container_id), Until.EXITED, 60)
    assert late.exit_code == 3


async def test_it_is_not_removed_before_its_output_was_read(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 0.05)
    await manager.create("web", "sh", "-c", "echo one; echo two; exit 3", auto_remove=True)
    seen = []
    async for chunk in manager.containers.logs("web", follow=True):
        seen.append(chunk.data)
        await manager.wait("web", Until.EXITED)
        await asyncio.sleep(0.2)  # longer than one waits that nobody reads
    assert b"".join(seen) == b"one\ntwo\n"


async def test_one_that_was_started_again_is_not_removed(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 0.3)
    await manager.run("web", auto_remove=True)
    await manager.containers.restart("web", 0)
    await asyncio.sleep(0.6)  # longer than an ended one waits for readers
    container = await manager.containers.get("web")
    assert container.state is ContainerState.RUNNING
    await manager.containers.stop("web", 0)
    await manager.until(lambda: _nobody(manager))


async def test_a_restart_that_takes_its_time_does_not_lose_it(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_container, "READ_GRACE_S", 0.05)
    await manager.run("web", auto_remove=True)
    start = manager.containers.start

    async def start_late(ref: str) -> None:
        await asyncio.sleep(0.5)  # longer than an ended one waits for readers
        await start(ref)

    monkeypatch.setattr(manager.containers, "start", start_late)
    await manager.containers.restart("web", 0)
    await asyncio.sleep(0.2)  # longer than an ended one waits for readers
    container = await manager.containers.get("web")
    assert container.state is ContainerState.RUNNING
    await manager.containers.stop("web", 0)
    await manager.until(lambda: _nobody(manager))


async def test_one_that_could_not_be_started_is_removed_if_it_was_to_be(manager: Manager) -> None:
    failed = await manager.run("web", "missing", auto_remove=True)
    assert failed.error is not None
    assert failed.error["code"] == "command-not-found"

    async def gone() -> bool:
        return not await manager.containers.list(all_states=True)

    await manager.until(gone, "it is removed")


async def test_the_next_manager_removes_what_could_not_be_started(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.run("web", "missing", auto_remove=True)
        await manager.run("kept", "missing")
    async with place.manager() as manager:
        assert [c.name for c in await manager.containers.list(all_states=True)] == ["kept"]


async def test_one_that_ended_before_the_manager_did_is_removed_by_the_next(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.run("web", "true", auto_remove=True)
        await manager.wait("web", Until.EXITED)
    async with place.manager() as manager:
        assert await manager.containers.list(all_states=True) == ()
        await check(manager.running)
        assert vmm_pids(place.storage) == []


async def _nobody(manager: Manager) -> bool | None:
    return None if await manager.containers.list(all_states=True) else True
