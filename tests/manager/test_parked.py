"""Containers and engines whose memory is on the disk, on the simulated hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import Any

import pytest
from tests.manager.test_frozen_engines import add_container, running_in
from tests.support.engines import create, create_container, docker, engines_of
from tests.support.eventually import eventually
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids
from tests.support.ports import free_port
from tests.support.prepared_labs import prepare

from warmboot.host.agent import HostAgent
from warmboot.host.network.ports.ports import HeldPort
from warmboot.host.snapshots.snapshot_files import SnapshotFiles
from warmboot.host.vms import Vms
from warmboot.manager.containers.watch_container import WatchContainer
from warmboot.model.container import Container, ContainerState, PortMapping
from warmboot.model.errors import Conflict, DiskFull, HostError, InUse, MemoryFull, SnapshotDamaged
from warmboot.model.runtime_snapshot import DIFFERENCE_FILE, RuntimeSnapshot
from warmboot.model.tenants.engine import EngineState

COUNTING = ("sh", "-c", "echo begun; sleep 1000; echo never")


async def told(m: Manager, subject_id: object) -> list[str]:
    words = ("parking", "parked", "unparked", "waking", "wake-failed", "woken", "failed")
    kinds = [event.kind.partition(".")[2] for event in await m.events_of(subject_id)]
    return [kind for kind in kinds if kind in words]


async def moments(m: Manager) -> list[RuntimeSnapshot]:
    found = await m.store.snapshots.list(include_deleted=True)
    return [one for one in found if not one.is_version]


async def refused(work: Awaitable[object], words: str) -> None:
    with pytest.raises(Conflict, match=words):
        await work


@pytest.mark.usefixtures("port_network")
async def test_a_parked_container_has_no_vm_and_goes_on_where_it_was(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        ran = await m.run("web", *COUNTING, ports=(PortMapping(80),))
        (port,) = ran.ports
        await m.containers.park("web")
        parked = await m.containers.get("web")
        assert (parked.state, parked.vm_id, parked.ports) == (ContainerState.PARKED, None, (port,))
        assert vmm_pids(place.storage) == []
        assert [one.name for one in await m.containers.list()] == ["web"]
        assert all(one.is_version for one in await m.snapshots.list()), "it is nobody else's"
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind((port.host_ip, port.host_port))
        with pytest.raises(Conflict, match="already taken") as taken:
            await m.run("other", ports=(PortMapping(80, port.host_port),))
        assert "the container web has it" in taken.value.details
        assert taken.value.resolution.endswith("`warmboot wake web && warmboot stop web`")
        await refused(m.containers.park("web"), "web is parked, wake it first")
        await refused(m.containers.pause("web"), "web is parked, wake it first")
        await refused(m.containers.stop("web"), "web is parked, wake it first")
        await refused(m.containers.kill("web", "KILL"), "web is parked, wake it first")
        await refused(m.containers.fork("web", 1), "web is parked, wake it first")
        with pytest.raises(InUse) as kept:
            await m.containers.delete("web")
        assert kept.value.resolution.startswith("wake it first (`warmboot wake web`)")
        await m.services.garbage.collect()
        await check(m.running)
    async with place.manager() as m:  # another one
        assert vmm_pids(place.storage) == []
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind((port.host_ip, port.host_port))
        await m.containers.wake("web")
        woken = await m.containers.get("web")
        assert (woken.state, woken.ports) == (ContainerState.RUNNING, (port,))
        assert (woken.docker_id, woken.started_at) == (ran.docker_id, ran.started_at)
        assert await m.output("web") == b"begun\n"
        assert await told(m, ran.id) == ["parking", "parked", "waking", "woken"]
        await refused(m.containers.wake("web"), "web is not parked")
        # Again, from what it was woken from; and by a start.
        await m.containers.park("web")
        assert len(await moments(m)) == 1
        await m.containers.start("web")
        assert await m.output("web") == b"begun\n"
        await m.containers.stop("web", 0.1)
        ended = await m.containers.get("web")
        assert (ended.state, ended.exit_code) == (ContainerState.EXITED, 143)
        await m.containers.start("web")
        await m.containers.delete("web", force=True)
        assert await moments(m) == []
        await check(m.running)


def say_hello(held: HeldPort) -> None:
    """What stands for a guest that answers at a published port."""
    connected, _ = held._held.accept()
    with connected:
        connected.sendall(b"hello")


async def until_free(number: int) -> None:
    async def is_free() -> bool:
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", number)).close()
            return True
        return False

    await eventually(is_free, timeout_s=60)


async def greeted(port: PortMapping) -> bytes:
    reader, writer = await asyncio.open_connection(port.host_ip, port.host_port)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.usefixtures("port_network")
async def test_who_connects_to_a_port_of_what_is_parked_is_answered_by_the_woken_one(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldPort, "_send_away", say_hello)
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        ran = await m.run("web", *COUNTING, ports=(PortMapping(80), PortMapping(53, 0, "", "udp")))
        engine = await create(m)
        async with docker(engine) as client:
            made = await create_container(client, "db", {"80/tcp": [{"HostPort": ""}]})
            await client.post(f"/containers/{made.json()['Id']}/start")
            (published,) = (await engines_of(m).get("ci")).ports
            stopped = free_port()
            await create_container(client, "web", {"80/tcp": [{"HostPort": str(stopped)}]})
            await client.post("/containers/web/start")
            await client.post("/containers/web/stop?t=0")
            await until_free(stopped)
        (tcp, udp), in_engine = ran.ports, published.mapping
        await m.containers.park("web")
        await engines_of(m).park("ci")
        await until_free(stopped)  # nobody has it but a container that does not run
        with monkeypatch.context() as patched:
            patched.setattr(Vms, "restore", fails)
            assert [await greeted(one) for one in (tcp, in_engine)] == [b"", b""]
            for one in (ran.id, engine.id):
                assert await told(m, one) == ["parking", "parked", "waking", "wake-failed"]
        asking = (greeted(one) for one in (tcp, in_engine) for _ in range(20))
        assert await asyncio.gather(*asking) == [b"hello"] * 40
        for one in (ran.id, engine.id):
            assert (await told(m, one)).count("woken") == 1
        assert (await m.containers.get("web")).ports == (tcp, udp)
        assert await greeted(tcp) == await greeted(in_engine) == b"hello"
        await m.containers.park("web")
        await engines_of(m).park("ci")
        await check(m.running)
    async with place.manager() as m:  # another one holds them, too
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"wake up", (udp.host_ip, udp.host_port))

            async def runs() -> bool:
                return (await m.containers.get("web")).state is ContainerState.RUNNING

            await eventually(runs, timeout_s=60)
        await m.containers.park("web")
        held = asyncio.create_task(greeted(tcp))
        await m.containers.delete("web", force=True)
        assert await held in (b"", b"hello")  # it may have been quicker
        await engines_of(m).delete("ci", force=True)
        await check(m.running)


async def test_a_parked_engine_wakes_for_who_asks_at_its_socket(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        engine = await create(m)
        await add_container(engine, "db")
        await engines_of(m).park("ci")
        parked = await engines_of(m).get("ci")
        assert (parked.state, parked.vm_id) == (EngineState.PARKED, None)
        assert (await engines_of(m).disk("ci")).stored_bytes > 0
        assert vmm_pids(place.storage) == []
        with monkeypatch.context() as patched:
            patched.setattr(Vms, "restore", fails)
            async with docker(engine) as client:
                said = await client.get("/containers/json")
        assert (said.status_code, said.json()["message"]) == (503, "it does not come up: by test")
        assert await told(m, engine.id) == ["parking", "parked", "waking", "wake-failed"]
        await check(m.running)
    async with place.manager() as m:
        async with docker(engine) as client:  # whoever wants something of it wakes it, once
            answers = await asyncio.gather(*(client.get("/containers/json") for _ in range(20)))
        assert {one.status_code for one in answers} == {200}
        assert (await told(m, engine.id)).count("woken") == 1
        await engines_of(m).park("ci")
        begun = asyncio.Event()

        async def hangs(*_: Any, **__: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            patched.setattr(Vms, "restore", hangs)
            asking = asyncio.create_task(running_in(engine))
            await begun.wait()
    async with place.manager() as m:  # the manager ended while somebody waited: the next one wakes
        assert await asking == {"/db"}
        woken = await engines_of(m).get("ci")
        assert (woken.state, woken.address) == (EngineState.RUNNING, engine.address)
        assert woken.handed_over
        assert await running_in(woken) == {"/db"}
        # It is one as any other: it is forked, its fork is parked, and both wake.
        (fork,) = await engines_of(m).fork("ci", 1)
        for name in ("ci", fork.name):
            await engines_of(m).park(name)
        assert vmm_pids(place.storage) == []
        await engines_of(m).start("ci")
        await engines_of(m).wake(fork.name)
        assert await running_in(await engines_of(m).get(fork.name)) == {"/db"}
        await engines_of(m).park("ci")
        for name in ("ci", fork.name):
            await engines_of(m).delete(name, force=True)
        assert await moments(m) == []
        await check(m.running)


@pytest.mark.parametrize(
    ("of", "method"),
    [(Vms, "freeze_in_use"), (SnapshotFiles, "publish_moment")],
    ids=["freezing", "publishing"],
)
async def test_what_cannot_be_parked_runs_on(
    place: Lab, monkeypatch: pytest.MonkeyPatch, of: type[object], method: str
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        ran = await m.run("web", *COUNTING)
        engine = await create(m)

        async def full(*_: Any, **__: Any) -> None:
            raise DiskFull("the disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(of, method, full)
            with pytest.raises(DiskFull):
                await m.containers.park("web")
            with pytest.raises(DiskFull):
                await engines_of(m).park("ci")
        assert (await m.containers.get("web")).state is ContainerState.RUNNING
        assert await m.output("web") == b"begun\n"
        assert await running_in(await engines_of(m).get("ci")) == set()
        for one in (ran.id, engine.id):
            assert await told(m, one) == ["parking", "unparked"]
        assert await moments(m) == []
        await check(m.running)
        await m.containers.park("web")
        await m.containers.wake("web")


async def fails(*_: Any, **__: Any) -> None:
    raise HostError("it does not come up", details="by test")


async def wake_fails(m: Manager, error: type[Exception]) -> Container:
    with pytest.raises(error):
        await m.containers.wake("web")
    return await m.containers.get("web")


async def test_what_cannot_be_woken_stays_parked(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        ran = await m.run("web", *COUNTING)
        await m.containers.park("web")

        with monkeypatch.context() as patched:
            patched.setattr(HostAgent, "free_memory_mib", lambda self: 1)
            assert (await wake_fails(m, MemoryFull)).state is ContainerState.PARKED
        for method in ("restore", "claim", "publish"):
            with monkeypatch.context() as patched:
                patched.setattr(Vms, method, fails)
                assert (await wake_fails(m, HostError)).state is ContainerState.PARKED
            assert vmm_pids(place.storage) == []
        (moment,) = await moments(m)
        difference = moment.snapshot_path / DIFFERENCE_FILE
        content = difference.read_bytes()
        difference.chmod(0o600)
        difference.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert (await wake_fails(m, SnapshotDamaged)).state is ContainerState.PARKED
        difference.write_bytes(content)
        await m.containers.wake("web")
        assert await m.output("web") == b"begun\n"
        assert "failed" not in await told(m, ran.id)
        await check(m.running)


async def test_a_removal_ends_a_parking_and_frees_all(place: Lab) -> None:
    await prepare(place, snapshot=True)
    async with place.manager() as m:
        for name in ("parked", "woken"):
            await m.run(name, *COUNTING)
            await m.containers.park(name)
        await m.containers.wake("woken")
        for name in ("parked", "woken"):
            await m.containers.delete(name, force=True)
        assert await moments(m) == []
        assert vmm_pids(place.storage) == []
        await check(m.running)


@pytest.mark.usefixtures("port_network")
async def test_one_whose_program_ended_meanwhile_keeps_its_ports_and_is_told_when_it_wakes(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, snapshot=True)
    seen, given_back = asyncio.Event(), list[str]()
    freeze, give_back = Vms.freeze_in_use, WatchContainer._give_ports_back
    look = WatchContainer._until_not_paused

    async def looks(self: WatchContainer, container: Container) -> None:
        seen.set()
        await look(self, container)

    async def gives_back(self: WatchContainer, container: Container) -> None:
        given_back.append(container.name)
        await give_back(self, container)

    async with place.manager() as m:
        ran = await m.run("web", *COUNTING, ports=(PortMapping(80),))

        async def ends_before(*given: Any, **options: Any) -> Any:
            await m.host.vms.link(str(ran.vm_id)).docker.kill(str(ran.docker_id), "KILL")
            await seen.wait()
            assert given_back == []
            return await freeze(*given, **options)

        monkeypatch.setattr(WatchContainer, "_until_not_paused", looks)
        monkeypatch.setattr(WatchContainer, "_give_ports_back", gives_back)
        monkeypatch.setattr(Vms, "freeze_in_use", ends_before)
        await m.containers.park("web")
        assert (given_back, (await m.containers.get("web")).ports) == ([], ran.ports)
        await m.containers.wake("web")

        async def ended() -> bool:
            return (await m.containers.get("web")).exit_code == 137

        await eventually(ended, timeout_s=60)
        assert given_back == ["web"]
