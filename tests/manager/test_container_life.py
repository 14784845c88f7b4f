"""The life of a container: it is created, runs, ends, starts again, and all of it is told."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import (
    Conflict,
    NotFound,
    WarmbootError,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.tenants.boot import BootMethod

PROGRESS = {"container.stage", "container.pull"}


async def test_it_is_created_runs_stops_and_starts_again(manager: Manager) -> None:
    container = await manager.run()
    assert container.state is ContainerState.RUNNING
    assert container.started_at is not None
    await manager.containers.stop("web", 1)
    stopped = await manager.containers.get("web")
    assert stopped.state is ContainerState.EXITED
    assert stopped.exit_code == 143
    assert stopped.finished_at is not None
    assert stopped.vm_id == container.vm_id
    await manager.containers.start("web")
    again = await manager.containers.get("web")
    assert again.state is ContainerState.RUNNING
    assert again.exit_code is None
    assert again.finished_at is None
    assert again.vm_id == container.vm_id
    assert again.docker_id == container.docker_id


async def test_stop_and_start_are_idempotent(manager: Manager) -> None:
    await manager.run()
    await manager.containers.start("web")
    await manager.containers.stop("web", 0)
    await manager.containers.stop("web", 0)
    assert (await manager.containers.get("web")).state is ContainerState.EXITED


async def test_restart_keeps_the_vm(manager: Manager) -> None:
    container = await manager.run()
    await manager.containers.restart("web", 0)
    again = await manager.containers.get("web")
    assert again.state is ContainerState.RUNNING
    assert again.vm_id == container.vm_id
    assert again.started_at is not None
    assert container.started_at is not None
    assert again.started_at > container.started_at


async def test_every_end_is_seen_however_quickly_it_is_started_again(manager: Manager) -> None:
    """The watch of the last run is just ending when the next one begins."""
    await manager.run("web", "sh", "-c", "exit 5")
    for _ in range(15):
        ended = await manager.wait("web", Until.EXITED)
        assert ended.state is ContainerState.EXITED
        assert ended.exit_code == 5
        await manager.containers.start("web")
    await manager.wait("web", Until.EXITED)


async def test_a_failed_container_can_be_started_at_once(manager: Manager) -> None:
    """The bring-up that failed is just ending when the next one begins."""
    await manager.create("web", image="missing/image")
    for _ in range(5):
        failed = await manager.wait("web", Until.RUNNING)
        assert failed.state is ContainerState.FAILED
        await manager.containers.start("web")
    assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.FAILED


@pytest.mark.parametrize("code", [0, 1, 42, 137])
async def test_an_exit_is_seen_with_its_code(manager: Manager, code: int) -> None:
    await manager.create("web", "sh", "-c", f"exit {code}")
    container = await manager.wait("web", Until.EXITED)
    assert container.state is ContainerState.EXITED
    assert container.exit_code == code
    kinds = [e.kind for e in await manager.events_of(container.id)]
    assert kinds[-2:] == ["container.running", "container.exited"]


async def test_list_shows_what_runs_or_everything(manager: Manager) -> None:
    await manager.run("one")
    await manager.run("two", "true")
    await manager.wait("two", Until.EXITED)
    assert [c.name for c in await manager.containers.list()] == ["one"]
    both = await manager.containers.list(all_states=True)
    assert [c.name for c in both] == ["two", "one"]


async def test_it_is_found_by_name_id_and_beginning_of_id(manager: Manager) -> None:
    container = await manager.run("web")
    for ref in ("web", str(container.id), str(container.id)[:8], container.id.hex):
        assert (await manager.containers.get(ref)).id == container.id
    with pytest.raises(NotFound):
        await manager.containers.get("nobody")
    with pytest.raises(NotFound):
        await manager.containers.get(str(uuid4()))


async def test_a_name_of_one_letter_is_a_name(manager: Manager) -> None:
    assert (await manager.run("x")).state is ContainerState.RUNNING


async def test_environment_and_command_arrive(manager: Manager) -> None:
    await manager.run(
        "web", "sh", "-c", "printenv GREETING; hostname", environment={"GREETING": "hi"}
    )
    await manager.wait("web", Until.EXITED)
    assert (await manager.output("web")).startswith(b"hi\n")


async def test_waiting_for_the_boot_of_a_second_start_waits(manager: Manager) -> None:
    await manager.run(image="missing/image")
    manager.lab.set(docker_s=0.4)
    await manager.containers.start("web")
    container = await manager.wait("web", Until.BOOTED)
    assert container.vm_id is not None or container.state is ContainerState.FAILED
    assert container.boot_method is not None


async def test_a_kill_ends_a_stop_that_waits(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "trap '' TERM; sleep 1000")
    stopping = asyncio.create_task(manager.containers.stop("web", 600))
    await asyncio.sleep(0.2)  # until the stop has it
    await manager.containers.kill("web", "SIGKILL")
    assert (await manager.containers.get("web")).exit_code == 137
    async with asyncio.timeout(60):
        await stopping
    with pytest.raises(Conflict, match="is not running"):
        await manager.containers.kill("web", "SIGTERM")


async def test_it_is_killed_when_its_own_time_is_over(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "trap '' USR1; sleep 1000", stop_timeout_s=0)
    await manager.containers.stop("web", signal="SIGUSR1")
    assert (await manager.containers.get("web")).exit_code == 137


async def test_stop_is_refused_while_it_is_created(manager: Manager) -> None:
    manager.lab.set(docker_s=600)
    await manager.create()
    with pytest.raises(Conflict, match="still being created"):
        await manager.containers.stop("web", 1)
    manager.lab.set(docker_s=0)
    assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.RUNNING


async def test_many_are_created_at_once(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    await asyncio.gather(*(manager.create(f"c{n}") for n in range(12)))
    containers = await asyncio.gather(*(manager.wait(f"c{n}", Until.RUNNING) for n in range(12)))
    assert {c.state for c in containers} == {ContainerState.RUNNING}
    assert {c.boot_method for c in containers} == {BootMethod.WARM}
    assert len({c.vm_id for c in containers}) == 12
    await check(manager.running)
    await asyncio.gather(*(manager.containers.delete(f"c{n}", force=True) for n in range(12)))
    await check(manager.running)


async def test_a_manager_that_stops_while_it_boots_leaves_it_to_the_next(place: Lab) -> None:
    async with place.manager() as manager:
        await manager.snapshot()
        await manager.create()
    async with place.manager() as manager:
        container = await manager.wait("web", Until.RUNNING)
        assert container.state is ContainerState.RUNNING
        assert container.boot_method is BootMethod.WARM
        await check(manager.running)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.05, 0.07, 0.1, 0.13])
async def test_a_manager_may_stop_at_any_moment(place: Lab, delay: float) -> None:
    async with place.manager() as manager:
        await manager.snapshot()
        await manager.create()
        await asyncio.sleep(delay)
    async with place.manager() as manager:
        container = await manager.wait("web", Until.RUNNING)
        assert container.state is ContainerState.RUNNING, container.error
        await check(manager.running)


async def test_it_fails_when_docker_has_lost_it(manager: Manager) -> None:
    container = await manager.run()
    link = manager.host.vms.link(str(container.vm_id))
    await link.docker.remove(str(container.docker_id))
    ended = await manager.wait("web", Until.EXITED)
    assert ended.state in (ContainerState.FAILED, ContainerState.EXITED)
    await check(manager.running)


async def test_events_tell_its_life_in_order(snapshot: RuntimeSnapshot, manager: Manager) -> None:
    container = await manager.run("web", "true")
    await manager.wait("web", Until.EXITED)
    await manager.containers.delete("web")
    events = await manager.events_of(container.id)
    kinds = [event.kind for event in events if event.kind not in PROGRESS]
    assert kinds == [
        "container.creating",
        "container.booted",
        "container.running",
        "container.exited",
        "container.deleting",
        "container.deleted",
    ]
    assert [event.id for event in events] == sorted(event.id for event in events)
    exited = next(event for event in events if event.kind == "container.exited")
    assert exited.data["exit_code"] == 0


async def test_events_can_be_followed(manager: Manager) -> None:
    seen = []

    async def read() -> None:
        async for event in manager.services.events.follow():
            seen.append(event.kind)
            if event.kind == "container.running":
                return

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await manager.run()
    await asyncio.wait_for(reading, 60)
    assert seen.index("container.creating") < seen.index("container.booted")


async def test_a_wait_ends_when_its_time_is_over(manager: Manager) -> None:
    manager.lab.set(docker_s=600)
    await manager.create()
    container = await manager.containers.wait("web", Until.RUNNING, 0.1)
    assert container.state is ContainerState.CREATING
    with pytest.raises(WarmbootError):
        await manager.containers.wait("nobody", Until.RUNNING, 0.1)
    await manager.containers.delete("web", force=True)


async def test_its_programs_may_open_as_many_files_as_under_systemd(manager: Manager) -> None:
    container = await manager.run("web")
    assert container.vm_id is not None
    described = await manager.host.vms.link(container.vm_id).docker.description("warmboot")
    (limit,) = described["HostConfig"]["Ulimits"]
    assert (limit["Name"], limit["Soft"], limit["Hard"]) == ("nofile", 1024, 524_288)
