"""A VM that stands still because the host's disk is full: told, shown, and let run on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
from tests.manager.test_compressed_boot import compressed
from tests.manager.test_metrics import look
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.host.vm import live_vm
from warmboot.manager.protocols import Until
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import DiskFull
from warmboot.model.journal.event import Event
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.sessions import ExecSpec
from warmboot.model.tenants.boot import BootMethod, BootPolicy, FallbackReason
from warmboot.system import disks


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_vm, "LOOK_AGAIN_S", 0.05)
    monkeypatch.setattr(live_vm, "STEADY_S", 2.0)  # on a busy host it may stall again so late


@pytest.fixture
async def web(manager: Manager) -> AsyncIterator[Container]:
    """A container that stands still: Docker in its VM was about to write."""
    container = await manager.run()
    async with stalled(manager, container):
        yield container


class stalled:
    """The host's disk is full, and the container's guest writes; afterwards it is not."""

    def __init__(self, manager: Manager, container: Container) -> None:
        self._manager, self._container = manager, container

    async def __aenter__(self) -> None:
        self._manager.lab.set(disk_full="always")
        spec = ExecSpec(("true",))
        self._writing = asyncio.create_task(self._manager.containers.exec("web", spec))
        await told(self._manager, self._container, "container.stalled")

    async def __aexit__(self, *_: object) -> None:
        self._manager.lab.set(disk_full="never")
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)


async def told(manager: Manager, container: Container, kind: str, times: int = 1) -> Event:
    async def find() -> Event | None:
        found = [e for e in await manager.events_of(container.id) if e.kind == kind]
        return found[-1] if len(found) >= times else None

    return await manager.until(find, kind)


async def test_it_is_told_with_what_to_do(manager: Manager, web: Container) -> None:
    event = await told(manager, web, "container.stalled")
    assert event.data["error"]["code"] == "disk-full"
    assert "continues automatically" in event.data["error"]["resolution"]
    now = await manager.containers.get("web")
    assert now.state is ContainerState.RUNNING
    assert now.error == event.data["error"]
    shown = await look(manager)
    assert shown.value("warmboot_vms_stalled") == 1
    kind = "container.stalled"
    assert shown.value("warmboot_failures_total", kind=kind, cause="disk-full") == 1


async def test_what_it_could_not_answer_is_refused_at_once(
    manager: Manager, web: Container
) -> None:
    with pytest.raises(DiskFull, match="is stalled"):
        await manager.containers.exec("web", ExecSpec(("true",)))
    with pytest.raises(DiskFull, match="is stalled"):
        await manager.containers.stop("web", 1)


async def test_it_goes_on_by_itself_once_there_is_room(manager: Manager) -> None:
    container = await manager.run()
    async with stalled(manager, container):
        kinds = [event.kind for event in await manager.events_of(container.id)]
        assert "container.resumed" not in kinds
        manager.lab.set(disk_full="never")
        event = await told(manager, container, "container.resumed")
        assert event.data["seconds"] > 0
    assert (await manager.containers.get("web")).error is None
    assert (await look(manager)).value("warmboot_vms_stalled") == 0
    session = await manager.containers.exec("web", ExecSpec(("echo", "alive")))
    assert b"".join([chunk.data async for chunk in session]) == b"alive\n"
    await session.close()


async def test_it_may_stall_again(manager: Manager) -> None:
    container = await manager.run()
    for times in (1, 2):
        async with stalled(manager, container):
            await told(manager, container, "container.stalled", times)
        await told(manager, container, "container.resumed", times)


async def test_caches_make_room_for_it_and_without_room_it_is_left_alone(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compressed(manager)
    await manager.run("warm")
    await manager.containers.delete("warm", force=True)  # nobody maps what was unpacked for it
    container = await manager.run(boot=BootPolicy.COLD)
    assert len(await manager.host.storage.cache.entries()) == 1
    free_bytes, asked = 0, asyncio.Event()

    def free(_: object) -> int:
        asked.set()
        return free_bytes

    monkeypatch.setattr(disks, "free_bytes", free)
    async with stalled(manager, container):
        manager.lab.set(disk_full="never")  # there would be no error, if it went on
        await asyncio.wait_for(asked.wait(), 60)

        async def evicted() -> bool:
            return await manager.host.storage.cache.entries() == []

        await manager.until(evicted, "the cache is given up")
        await asyncio.sleep(3 * live_vm.LOOK_AGAIN_S)
        assert (await manager.containers.get("web")).error is not None
        free_bytes = 1 << 30
        await told(manager, container, "container.resumed")


async def test_one_that_stands_still_is_adopted_and_goes_on(place: Lab) -> None:
    async with place.manager() as manager:
        container = await manager.run()
        place.set(disk_full="always")
        writing = asyncio.create_task(manager.containers.exec("web", ExecSpec(("true",))))
        await told(manager, container, "container.stalled")
        writing.cancel()
    async with place.manager() as manager:
        await told(manager, container, "container.stalled", 2)
        assert (await manager.containers.get("web")).error is not None
        place.set(disk_full="never")
        await told(manager, container, "container.resumed")
        assert (await manager.containers.get("web")).error is None
        await check(manager.running)
        await manager.containers.delete("web", force=True)


async def test_what_a_killed_manager_said_of_a_stall_is_not_believed(place: Lab) -> None:
    async with place.manager() as manager:
        container = await manager.run()
        await manager.store.containers.update(container.id, error=DiskFull("full").as_dict())
    async with place.manager() as manager:
        assert (await manager.containers.get("web")).error is None
        await manager.containers.delete("web", force=True)


async def test_one_that_stands_still_can_be_removed(manager: Manager, web: Container) -> None:
    await manager.containers.delete("web", force=True)
    assert vmm_pids(manager.lab.storage) == []

    async def forgotten() -> bool:
        return (await look(manager)).value("warmboot_vms_stalled") == 0

    await manager.until(forgotten)


async def test_a_vm_that_dies_while_it_stands_still_has_failed(
    manager: Manager, web: Container
) -> None:
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)

    async def failed() -> bool:
        return (await manager.containers.get("web")).state is ContainerState.FAILED

    await manager.until(failed)

    async def forgotten() -> bool:
        return manager.host.vms.stalled == 0

    await manager.until(forgotten)
    now = await manager.containers.get("web")
    assert now.error is not None
    assert now.error["code"] == "vm-gone"


async def test_a_warm_boot_that_stalls_goes_on_cold_at_once_and_blames_no_snapshot(
    place: Lab, snapshot: RuntimeSnapshot
) -> None:
    async with place.manager(warm_boot_timeout_s=3600) as manager:  # so a guest may take to answer
        place.set(disk_full="restore")
        container = await manager.run()
        assert (container.state, container.boot_method) == (ContainerState.RUNNING, BootMethod.COLD)
        assert container.fallback_reason is FallbackReason.RESTORE_FAILED
        assert "the disk is full" in container.fallback_details
        now = await manager.snapshots.get(snapshot.id)
        assert (now.state, now.failure_count) == (SnapshotState.READY, 0)
        await check(manager.running)


async def test_a_cold_boot_that_stalls_fails_and_says_why(manager: Manager) -> None:
    manager.lab.set(disk_full="always")
    container = await manager.run()
    assert container.state is ContainerState.FAILED
    assert container.error is not None
    assert container.error["code"] == "disk-full"
    manager.lab.set(disk_full="never")
    await manager.containers.start("web")
    assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.RUNNING


async def test_one_that_is_stalled_is_not_paused(manager: Manager, web: Container) -> None:
    with pytest.raises(DiskFull):
        await manager.containers.pause("web")

    async def refused() -> bool:  # also before it was told that it is
        pauses = manager.host.vms.pauses
        try:
            await pauses.pause(str(web.vm_id))
        except DiskFull:
            return True
        await pauses.resume(str(web.vm_id))  # it was just being tried whether it can go on
        return False

    await manager.until(refused)
    assert (await manager.containers.get("web")).state is ContainerState.RUNNING
    manager.lab.set(disk_full="never")
    await told(manager, web, "container.resumed")
    await manager.containers.pause("web")
    await manager.containers.unpause("web")
