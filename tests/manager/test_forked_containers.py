"""Containers that go on from a running one, on the simulated hypervisor."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.support.absent import ABSENT
from tests.support.impatient import impatient_with_docker
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids
from tests.support.ports import free_port
from tests.support.prepared_labs import prepare

from warmboot.host.agent import HostAgent
from warmboot.host.vm import freeze_vm
from warmboot.manager.protocols import Until
from warmboot.manager.tenants.fork_tenant import ForkTenant
from warmboot.model.container import Container, ContainerState, PortMapping
from warmboot.model.errors import Conflict, DiskFull, HostError, InvalidRequest, MemoryFull
from warmboot.model.runtime_snapshot import Depth
from warmboot.model.tenants.boot import BootMethod
from warmboot.model.vm import VmKind

COUNTING = ("sh", "-c", "echo begun; sleep 1000")


async def only_versions(m: Manager) -> bool:
    return all(one.is_version for one in await m.snapshots.list(include_deleted=True))


@pytest.mark.usefixtures("port_network")
async def test_a_container_goes_on_in_its_forks_and_in_itself(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        ports = (PortMapping(80, free_port()), PortMapping(81))
        source = await m.run("web", *COUNTING, ports=ports, hostname="own", labels={"for": "test"})
        await m.run("web-1")
        forks = await m.containers.fork("web", 2)
        assert [fork.name for fork in forks] == ["web-2", "web-3"]
        assert [fork.host_name for fork in forks] == ["web-2", "web-3"]
        for fork in forks:
            assert (fork.state, fork.boot_method) == (ContainerState.RUNNING, BootMethod.WARM)
            assert (fork.docker_id, fork.shape) == (source.docker_id, source.shape)
            assert fork.spec.labels == {"for": "test"}
            assert await m.output(fork.name) == b"begun\n"
            assert [port.container_port for port in fork.ports] == [80, 81]
        published = [port.host_port for one in (source, *forks) for port in one.ports]
        assert len(set(published)) == 6, "each has host ports of its own"
        assert all(published)
        assert [one.depth for one in await m.snapshots.list()] == [Depth.RUNTIME]
        # One of a fork is as good, and its moment goes with the last that lies on it.
        (again,) = await m.containers.fork("web-2", 1)
        assert again.name == "web-2-1"
        for name in ("web-2", "web-3"):
            await m.containers.delete(name, force=True)
        assert (await m.containers.get("web")).state is ContainerState.RUNNING
        await m.containers.stop("web-2-1", 0.1)
        await m.containers.start("web-2-1")
        await m.containers.delete("web-2-1", force=True)
        assert await only_versions(m)


async def test_two_forks_of_one_at_once_give_each_other_no_name(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web")
        made = await asyncio.gather(*(m.containers.fork("web", 2) for _ in range(2)))
        names = sorted(fork.name for forks in made for fork in forks)
        assert names == ["web-1", "web-2", "web-3", "web-4"]


async def test_what_cannot_be_forked_is_refused(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager(max_forks=2) as m:
        await m.run("web")
        with pytest.raises(InvalidRequest, match="3 forks are too many") as refused:
            await m.containers.fork("web", 3)
        assert "MANAGER_MAX_FORKS allows 2" in refused.value.details
        memory_mib = (await m.containers.get("web")).shape.memory_mib
        with monkeypatch.context() as patched:
            patched.setattr(HostAgent, "free_memory_mib", lambda self: memory_mib - 1)
            with pytest.raises(MemoryFull, match="no memory for 2 forks of web") as full:
                await m.containers.fork("web", 2)
        assert f"{memory_mib - 1} MiB are free" in full.value.details
        with monkeypatch.context() as patched:
            patched.setattr(freeze_vm, "MOST_LAYERS", 0)
            with pytest.raises(Conflict, match="web was frozen too often") as often:
                await m.containers.fork("web", 1)
        assert "run it anew" in often.value.resolution  # its VM, and so its disk, stays
        await m.containers.pause("web")
        with pytest.raises(Conflict, match="web is paused, unpause it first"):
            await m.containers.fork("web", 1)
        await m.containers.stop("web", 0.1)
        with pytest.raises(Conflict, match="web is not running"):
            await m.containers.fork("web", 1)
        assert await only_versions(m)


async def test_a_fork_whose_vm_died_starts_again_on_its_own_disk(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        await m.run("web", *COUNTING)
        (fork,) = await m.containers.fork("web", 1)
        await m.containers.delete("web", force=True)
        place.kill_everything()

        async def failed() -> bool:
            return (await m.containers.get(fork.name)).state is ContainerState.FAILED

        await m.until(failed, "its end is seen")
        await m.containers.start(fork.name)
        again = await m.wait(fork.name, Until.RUNNING)
        assert (again.state, again.error) == (ContainerState.RUNNING, None)
        assert again.boot_method is BootMethod.COLD
        await m.containers.delete(fork.name, force=True)
        assert await only_versions(m)


async def test_all_of_the_forks_come_up_or_none_stays(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing: list[str] = []

    async def hook(saga: str, step: str) -> None:
        if saga == "fork-container" and step in failing:
            raise DiskFull("made to fail")

    await prepare(place, snapshot=True)
    async with place.manager(hook) as m:
        source = await m.run("web", *COUNTING)
        for step in ForkTenant[Container](VmKind.CONTAINER, *[ABSENT] * 7).saga.steps:
            failing[:] = [step.name]
            with pytest.raises(DiskFull):
                await m.containers.fork("web", 1)
        failing.clear()
        impatient_with_docker(monkeypatch)
        place.set(docker_never_ready="restore")
        with pytest.raises(HostError, match="did not come up"):
            await m.containers.fork("web", 2)
        place.set(docker_never_ready="never")
        assert [one.name for one in await m.containers.list(all_states=True)] == ["web"]
        assert len(vmm_pids(place.storage)) == 1
        assert await only_versions(m)
        now = await m.containers.get("web")
        assert replace(now, stages=source.stages) == source
        assert await m.output("web") == b"begun\n"
        await check(m.running)
