"""The warm pool: its VMs are used by the next boot, never in its way, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.impatient import impatient_with_docker
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.host.agent import HostAgent
from warmboot.host.guest import guest_connections, guest_link
from warmboot.host.guest.guest_socket import open_guest_socket
from warmboot.host.vm.vm_files import kept_disk, snapshot_disks
from warmboot.hypervisors import process
from warmboot.manager.protocols import Until
from warmboot.manager.vms import warm_pool
from warmboot.model.container import ContainerState
from warmboot.model.runtime_snapshot import DISK_FILE
from warmboot.model.tenants.boot import BootMethod, FallbackReason
from warmboot.model.vm import GuestAddress


@pytest.fixture(autouse=True)
def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMs of the pool get what is left of the processors: beside other tests that is little."""
    monkeypatch.setattr(process, "_give_way", lambda _: None)


@pytest.fixture
async def waiting(place: Lab) -> AsyncIterator[Manager]:
    """A manager with a ready snapshot, for which two VMs are in the pool."""
    async with place.manager(pool_min_vms=2, pool_max_vms=2) as manager:
        await manager.snapshot()
        await pooled(manager, 2)
        yield manager


async def pooled(manager: Manager, count: int) -> None:
    async def look() -> bool | None:
        return (await manager.services.system.info()).warm_pool.ready == count or None

    await manager.until(look, f"{count} VMs are in the pool")


def vm_folders(manager: Manager) -> set[str]:
    return {folder.name for folder in manager.host.vms.root.iterdir()}


async def test_a_warm_boot_takes_one_and_another_takes_its_place(waiting: Manager) -> None:
    before = vm_folders(waiting)
    container = await waiting.run()
    assert container.boot_method is BootMethod.WARM
    assert container.vm_id in before
    await pooled(waiting, 2)
    assert len(vm_folders(waiting)) == 3


async def test_it_is_met_on_the_connection_that_it_has(
    waiting: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    booted_by: list[BootMethod | None] = []

    async def note(address: GuestAddress, timeout_s: float) -> socket.socket:
        booted_by.append((await waiting.containers.get("met")).boot_method)
        return await open_guest_socket(address, timeout_s)

    monkeypatch.setattr(guest_connections, "open_guest_socket", note)
    await waiting.create("met")
    await waiting.wait("met", Until.RUNNING)
    assert set(booted_by) == {BootMethod.WARM}, "only Docker is spoken to on others, and later"


async def test_after_hours_it_gets_the_time_the_entropy_and_the_token_of_now(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_ns, sent, claims = 0, list[dict[str, Any]](), list[dict[str, Any]]()
    clock = SimpleNamespace(monotonic=time.monotonic, time_ns=lambda: time.time_ns() + late_ns)
    body_of = guest_link._identity_body

    def note(identity: guest_link.Identity) -> dict[str, Any]:
        sent.append(body_of(identity))
        return sent[-1]

    monkeypatch.setattr(guest_link, "POOLED_KEEP_ALIVE_S", 0.0)  # it has been closed since
    async with place.manager(pool_min_vms=2, pool_max_vms=2) as manager:
        await manager.snapshot()
        await pooled(manager, 2)
        before = vm_folders(manager)
        monkeypatch.setattr(guest_link, "time", clock)
        monkeypatch.setattr(guest_link, "_identity_body", note)
        late_ns = 5 * 3600 * 10**9
        for name in ("one", "two"):
            asked_ns = clock.time_ns()
            container = await manager.run(name)
            assert container.boot_method is BootMethod.WARM
            assert container.vm_id in before
            (record,) = await manager.store.vms.of_owner(container.id)
            # The last one of this VM: a busy guest may be asked more than once.
            claims.append([one for one in sent if one["token"] == record.token][-1])
            assert asked_ns <= claims[-1]["clock_ns"] <= clock.time_ns()
            (stage,) = [stage for stage in container.stages if stage.name == "identity"]
            assert {"entropy", "clock", "token"} <= {step.name for step in stage.steps}
            late_ns *= 2
        for key in ("entropy", "token", "machine_id", "hostname"):
            assert claims[0][key] != claims[1][key]


async def test_more_boots_than_the_pool_has_start_their_own(waiting: Manager) -> None:
    ids = [await waiting.create(f"c{number}") for number in range(4)]
    for container_id in ids:
        container = await waiting.wait(str(container_id), Until.RUNNING)
        assert (container.state, container.boot_method) == (
            ContainerState.RUNNING,
            BootMethod.WARM,
        )


async def test_one_that_died_is_not_the_snapshots_fault(waiting: Manager) -> None:
    for folder in vm_folders(waiting):  # as its throw-away containers do
        with (waiting.host.vms.root / folder / DISK_FILE).open("r+b") as disk:
            disk.write(b"what the clean memory of another VM does not know of")
    for pid in vmm_pids(waiting.lab.storage):
        os.kill(pid, signal.SIGKILL)
    before = vm_folders(waiting)
    container = await waiting.run()
    assert container.boot_method is BootMethod.WARM
    assert container.vm_id in before
    assert container.runtime_snapshot_id is not None
    snapshot = await waiting.snapshots.get(container.runtime_snapshot_id)
    assert snapshot.failure_count == 0
    (record,) = await waiting.store.vms.of_owner(container.id)
    disk_now = kept_disk(record.spec).path.read_bytes()
    assert disk_now == (snapshot.snapshot_path / DISK_FILE).read_bytes()


async def test_one_that_does_not_answer_falls_back_and_goes(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(pool_min_vms=1, pool_max_vms=1) as manager:
        await manager.snapshot()
        await pooled(manager, 1)
        (folder,) = vm_folders(manager)
        impatient_with_docker(monkeypatch, lambda: folder in vm_folders(manager))
        place.set(docker_never_ready="restore")
        container = await manager.run()
        assert container.fallback_reason is FallbackReason.DOCKER_NOT_VERIFIED
        assert container.boot_method is BootMethod.COLD
        assert folder not in vm_folders(manager)
        await manager.containers.delete(str(container.id), force=True)


async def test_what_a_guest_has_waited_for_docker_is_not_waited_again(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(pool_min_vms=1, pool_max_vms=1, warm_boot_timeout_s=12) as manager:
        await manager.snapshot()
        await pooled(manager, 1)
        place.set(docker_never_ready="restore")
        waited: list[float] = []
        wait_for_docker = manager.host.vms.wait_for_docker

        async def note(vm_id: str, timeout_s: float) -> None:
            waited.append(timeout_s)
            await wait_for_docker(vm_id, timeout_s if len(waited) > 1 else 0.1)

        monkeypatch.setattr(manager.host.vms, "wait_for_docker", note)
        container = await manager.run()
        assert container.fallback_reason is FallbackReason.DOCKER_NOT_VERIFIED
        assert waited[0] == 10.0, "the others passed while it took its identity"
        await manager.containers.delete(str(container.id), force=True)


async def test_a_mistake_while_one_is_made_does_not_end_the_making(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(pool_min_vms=1, pool_max_vms=1) as manager:

        async def mistaken(*_: object) -> None:
            made.set()
            raise ZeroDivisionError

        made = asyncio.Event()
        with monkeypatch.context() as patched:
            patched.setattr(manager.host.vms, "prewarm", mistaken)
            await manager.snapshot()
            await made.wait()
        await manager.run()
        await pooled(manager, 1)
        await manager.containers.delete("web", force=True)


async def test_one_that_is_being_made_gives_way_too(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(pool_max_vms=1) as manager:
        begun = asyncio.Event()

        async def hanging(*_: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(manager.host.vms, "prewarm", hanging)
        await manager.snapshot()
        await begun.wait()
        (folder,) = vm_folders(manager)
        with monkeypatch.context() as patched:
            patched.setattr(HostAgent, "free_memory_mib", lambda self: 100)
            assert await manager.host.have_free(1000) == 100
            assert folder in vm_folders(manager), "not for nothing"
            assert await manager.host.have_free(200) == 100
        assert folder not in vm_folders(manager)
        pool = (await manager.services.system.info()).warm_pool
        assert (pool.ready, pool.evicted) == (0, 1)
        assert begun.is_set()
        begun.clear()
        await manager.run()
        await manager.containers.delete("web", force=True)
        assert not begun.is_set(), "it does not grow at once after that"


async def test_it_grows_with_the_demand_and_tells_so(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + late_s)
    monkeypatch.setattr(warm_pool, "time", clock)
    monkeypatch.setattr(warm_pool, "LOOK_AGAIN_S", 0.05)
    async with place.manager(pool_min_vms=0, pool_max_vms=2) as manager:
        snapshot = await manager.snapshot()
        assert (await manager.services.system.info()).warm_pool.size == 0
        await manager.run("one")
        await pooled(manager, 1)
        await asyncio.gather(manager.run("two"), manager.run("three"))
        await pooled(manager, 2)
        pool = (await manager.services.system.info()).warm_pool
        assert (pool.size, pool.min, pool.max, pool.memory_short) == (2, 0, 2, False)
        assert (pool.hits, pool.misses) == (1, 2)
        (kept,) = pool.snapshots
        assert (kept.snapshot_id, kept.ready, kept.size, kept.boots) == (snapshot.id, 2, 2, 3)
        late_s = 601.0
        await pooled(manager, 0)


async def test_they_go_with_their_snapshot(waiting: Manager) -> None:
    (snapshot,) = await waiting.snapshots.list()
    await waiting.snapshots.delete(snapshot.id)
    await pooled(waiting, 0)

    async def look() -> bool | None:
        return vm_folders(waiting) == set() or None

    await waiting.until(look, "their folders are gone")


async def test_they_go_when_the_manager_stops(place: Lab) -> None:
    async with place.manager(pool_min_vms=1, pool_max_vms=1) as manager:
        await manager.snapshot()
        await pooled(manager, 1)
    assert vmm_pids(place.storage) == []
    assert list((place.storage / "vms").iterdir()) == []


async def test_those_of_a_killed_manager_are_removed(place: Lab) -> None:
    async with place.manager(pool_min_vms=0, pool_max_vms=0) as manager:
        snapshot = await manager.snapshot()
        image, path = await manager.image(), snapshot.snapshot_path
        spec = await manager.host.vms.make(
            "vm-left", image, snapshot.shape, None, snapshot_disks(path)
        )
        await manager.host.vms.prewarm(spec, path)  # as one that is in no table
        (left,) = vmm_pids(place.storage)
    assert left in vmm_pids(place.storage)
    async with place.manager(pool_min_vms=0, pool_max_vms=0):
        assert vmm_pids(place.storage) == []
        assert list((place.storage / "vms").iterdir()) == []
