"""More memory than the host has to spare: refused with figures, for containers and engines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from tests.support.engines import create, engines_of
from tests.support.managers import Lab, Manager

from warmboot.host.agent import HostAgent
from warmboot.hypervisors import process
from warmboot.model.container import ContainerState
from warmboot.model.errors import MemoryFull
from warmboot.model.shapes import Shape

Create = Callable[[Manager, Shape | None], Awaitable[object]]


async def an_engine(m: Manager, shape: Shape | None) -> object:
    return await create(m, shape=shape)


async def a_container(m: Manager, shape: Shape | None) -> object:
    return await m.create("web", shape=shape)


@pytest.mark.parametrize("asked_for", [an_engine, a_container])
async def test_a_vm_that_could_use_more_than_is_free_is_refused(
    place: Lab, monkeypatch: pytest.MonkeyPatch, asked_for: Create
) -> None:
    monkeypatch.setattr(process, "_give_way", lambda _: None)  # or it has what others leave
    async with place.manager(pool_min_vms=1, pool_max_vms=1) as m:
        await m.snapshot()

        async def prepared() -> bool:
            return (await m.services.system.info()).warm_pool.ready == 1

        await m.until(prepared, "a VM is prepared")
        monkeypatch.setattr(HostAgent, "free_memory_mib", lambda self: 250)
        for shape in (None, Shape(1, 300)):
            with pytest.raises(MemoryFull, match="are not free on this host") as refused:
                await asked_for(m, shape)
            assert "250 MiB are" in refused.value.details
            assert "0 VMs run on it, and what the warm pool has would" in refused.value.details
        assert not await engines_of(m).list()
        assert not await m.services.containers.list()
        monkeypatch.setattr(HostAgent, "free_memory_mib", lambda self: 300)
        await asked_for(m, Shape(1, 300))


@pytest.mark.parametrize("asked_for", [an_engine, a_container])
async def test_the_warm_pool_gives_way_to_it(
    place: Lab, monkeypatch: pytest.MonkeyPatch, asked_for: Create
) -> None:
    monkeypatch.setattr(process, "_give_way", lambda _: None)

    def free_mib(agent: HostAgent) -> int:
        """The VM of the pool has 200 MiB."""
        return 1_100 if agent.vms.handles() else 1_300

    monkeypatch.setattr(HostAgent, "free_memory_mib", free_mib)
    async with place.manager(pool_min_vms=1, pool_max_vms=1) as m:
        await m.snapshot()

        async def prepared() -> bool:
            return (await m.services.system.info()).warm_pool.ready == 1

        await m.until(prepared, "a VM is prepared")
        assert m.host.vms.handles()
        await asked_for(m, Shape(1, 1_300))
        pool = (await m.services.system.info()).warm_pool
        assert (pool.ready, pool.evicted) == (0, 1)


async def test_a_stopped_engine_waits_for_memory_and_keeps_its_state(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as m:
        await create(m)
        await engines_of(m).stop("ci")
        monkeypatch.setattr(HostAgent, "free_memory_mib", lambda self: 100)
        with pytest.raises(MemoryFull):
            await engines_of(m).start("ci")
        assert (await engines_of(m).get("ci")).state == "stopped"


async def test_a_container_whose_vm_is_gone_waits_for_memory(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as m:
        await m.image()
        place.set(fail_boot=True)
        await m.create("web")

        async def failed() -> bool:
            return (await m.services.containers.get("web")).state is ContainerState.FAILED

        await m.until(failed, "it has failed")
        monkeypatch.setattr(HostAgent, "free_memory_mib", lambda self: 100)
        with pytest.raises(MemoryFull):
            await m.services.containers.start("web")
        assert (await m.services.containers.get("web")).state == "failed"


async def test_a_container_that_is_only_created_needs_memory_at_its_start(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager() as m:
        monkeypatch.setattr(HostAgent, "free_memory_mib", lambda self: 100)
        await m.create("web", start=False)
        with pytest.raises(MemoryFull):
            await m.services.containers.start("web")
        assert (await m.services.containers.get("web")).state is ContainerState.CREATED
