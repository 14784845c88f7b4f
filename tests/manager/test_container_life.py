"""The life of a container: from its creation to its removal, and what may go wrong on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from uuid import uuid4

import pytest
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.manager.containers import watch_container
from warmboot.manager.ports import Until
from warmboot.model.container import BootMethod, ContainerState, FallbackReason, PortMapping
from warmboot.model.errors import (
    Conflict,
    InUse,
    InvalidRequest,
    NameTaken,
    NotFound,
    NotSupported,
    WarmbootError,
)
from warmboot.model.shapes import Capacity, Shape

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


async def test_a_duplicate_name_is_refused_and_leaves_nothing(manager: Manager) -> None:
    await manager.run("web")
    with pytest.raises(NameTaken):
        await manager.create("web")
    await check(manager.running)
    assert len(await manager.containers.list(all_states=True)) == 1
    assert len(vmm_pids(manager.lab.storage)) == 1


async def test_of_many_with_one_name_one_is_created(manager: Manager) -> None:
    await manager.image()
    results = await asyncio.gather(
        *(manager.create("web") for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(r).__name__ for r in results) == ["NameTaken"] * 4 + ["UUID"]


async def test_an_unknown_runtime_image_is_refused(manager: Manager) -> None:
    with pytest.raises(NotFound):
        await manager.create("web", runtime_image_id=uuid4())
    assert await manager.containers.list(all_states=True) == ()


@pytest.mark.parametrize(
    ("shape", "has"),
    [(Shape(3, 512), "it has 2 CPUs"), (Shape(1, 4096), "it has 2048 MiB")],
    ids=str,
)
async def test_a_shape_that_the_host_has_not_is_refused(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, shape: Shape, has: str
) -> None:
    monkeypatch.setattr(manager.host, "capacity", lambda: Capacity(2, 2048))
    image = await manager.image()
    with pytest.raises(InvalidRequest, match="cannot be had on this host") as refused:
        await manager.create(shape=shape)
    assert refused.value.details == has
    assert refused.value.resolution
    with pytest.raises(InvalidRequest):
        await manager.snapshots.create(image.id, shape)
    assert await manager.containers.list(all_states=True) == ()
    assert await manager.snapshots.list(include_deleted=True) == ()
    await manager.run(shape=Shape(2, 2048))


async def test_the_default_shape_is_never_refused(
    place: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.manager(default_vcpus=2) as manager:
        monkeypatch.setattr(manager.host, "capacity", lambda: Capacity(1, 2048))
        assert (await manager.run()).shape == Shape(2, 256)
        # As the command line asks when only the memory was given.
        assert (await manager.run("more", shape=Shape(2, 512))).shape == Shape(2, 512)
        for name in ("web", "more"):
            await manager.containers.delete(name, force=True)


async def test_ports_are_refused_where_there_is_no_network(manager: Manager) -> None:
    with pytest.raises(NotSupported):
        await manager.create("web", ports=(PortMapping(80),))
    assert await manager.containers.list(all_states=True) == ()


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("missing/image", "image-not-found"),
        ("busybox:missing", "image-not-found"),
        ("unreachable.invalid/app", "registry-unavailable"),
    ],
)
async def test_an_image_that_cannot_be_had_is_an_error_that_says_so(
    manager: Manager, image: str, code: str
) -> None:
    await manager.snapshot()
    container = await manager.run(image=image)
    assert container.state is ContainerState.FAILED
    assert container.error is not None
    assert container.error["code"] == code
    assert container.error["resolution"]
    assert vmm_pids(manager.lab.storage) == []
    await check(manager.running)


@pytest.mark.parametrize(
    ("registry", "says"),
    [
        ("silent", "said nothing for 0.4 s"),
        ("stalled", "said nothing for 0.4 s"),
        ("failing", "asked for 2 times, in vain"),
    ],
)
async def test_a_registry_that_brings_nothing_is_not_waited_for(
    place: Lab, registry: str, says: str
) -> None:
    place.set(pull_s=0.01)
    async with place.manager(pull_silence_s=0.4) as manager:
        container = await manager.run(image=f"{registry}.invalid/app")
        assert container.error is not None
        assert container.error["code"] == "registry-unavailable"
        assert says in container.error["details"]
        assert vmm_pids(place.storage) == []


async def test_a_pull_that_gets_on_slowly_is_not_cut_off(place: Lab) -> None:
    place.set(pull_s=0.1)  # nine times in all
    async with place.manager(pull_silence_s=0.5) as manager:
        container = await manager.run(image="slow.invalid/app")
        assert container.error is None
        assert container.state is ContainerState.RUNNING


async def test_a_vm_that_does_not_boot_is_an_error_that_says_so(manager: Manager) -> None:
    await manager.image()
    manager.lab.set(fail_boot=True)
    container = await manager.run()
    assert container.state is ContainerState.FAILED
    assert container.error is not None
    assert "could not be booted" in container.error["brief"]
    manager.lab.set(fail_boot=False)
    await manager.containers.start("web")
    again = await manager.wait("web", Until.RUNNING)
    assert again.state is ContainerState.RUNNING
    assert again.error is None
    assert again.fallback_reason is FallbackReason.NO_SNAPSHOT


async def test_waiting_for_the_boot_of_a_second_start_waits(manager: Manager) -> None:
    await manager.run(image="missing/image")
    manager.lab.set(docker_s=0.4)
    await manager.containers.start("web")
    container = await manager.wait("web", Until.BOOTED)
    assert container.vm_id is not None or container.state is ContainerState.FAILED
    assert container.boot_method is not None


async def test_a_killed_vm_fails_its_container_and_says_so(manager: Manager) -> None:
    snapshot = await manager.snapshot()
    container = await manager.run()
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    failed = await manager.wait("web", Until.EXITED)
    assert failed.state is ContainerState.FAILED
    assert failed.error is not None
    assert "died" in failed.error["brief"]
    assert "warmboot start web" in failed.error["resolution"]
    assert (manager.host.vms_root / str(container.vm_id) / "disk.ext4").exists()
    # Its disk is made from the snapshot's.
    assert await manager.store.snapshots.leases(snapshot.id) == (str(container.id),)


async def test_a_failed_container_starts_again_on_its_disk(manager: Manager) -> None:
    container = await manager.run()
    disk = manager.host.vms_root / str(container.vm_id) / "disk.ext4"
    disk.write_bytes(b"precious")
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    await manager.wait("web", Until.EXITED)
    await manager.snapshot()  # a warm boot would be possible, but not on this disk
    await manager.containers.start("web")
    again = await manager.wait("web", Until.RUNNING)
    assert again.state is ContainerState.RUNNING
    assert again.boot_method is BootMethod.COLD
    assert again.fallback_reason is FallbackReason.KEEPS_DISK
    assert again.vm_id == container.vm_id
    assert disk.read_bytes() == b"precious"


async def test_a_start_that_fails_does_not_cost_the_disk(manager: Manager) -> None:
    await manager.snapshot()
    container = await manager.run()
    disk = manager.host.vms_root / str(container.vm_id) / "disk.ext4"
    disk.write_bytes(b"precious")
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    await manager.wait("web", Until.EXITED)
    manager.lab.set(fail_boot=True)
    for _ in range(2):
        await manager.containers.start("web")
        assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.FAILED
        await check(manager.running)
    manager.lab.set(fail_boot=False)
    await manager.containers.start("web")
    again = await manager.wait("web", Until.RUNNING)
    assert again.state is ContainerState.RUNNING
    assert disk.read_bytes() == b"precious"


async def test_an_exited_container_whose_vm_died_starts_again(manager: Manager) -> None:
    await manager.run()
    await manager.containers.stop("web", 0)
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    await manager.until(lambda: _none_run(manager))
    await manager.containers.start("web")
    again = await manager.wait("web", Until.RUNNING)
    assert again.state is ContainerState.RUNNING
    assert again.fallback_reason is FallbackReason.KEEPS_DISK


async def test_a_vm_killed_while_an_image_is_pulled_fails_the_container(manager: Manager) -> None:
    manager.lab.set(pull_s=30)
    container_id = await manager.create()
    await manager.until(lambda: _stage(manager, container_id, "pull"))
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    container = await manager.wait("web", Until.RUNNING)
    assert container.state is ContainerState.FAILED
    await check(manager.running)


@pytest.mark.parametrize("delay", [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2])
async def test_a_vm_killed_at_any_moment_leaves_a_decided_container(
    manager: Manager, delay: float
) -> None:
    await manager.snapshot()
    container_id = await manager.create()

    async def there() -> bool | None:
        return True if await manager.store.vms.of_owner(container_id) else None

    await manager.until(there)
    await asyncio.sleep(delay)
    manager.lab.kill_everything()
    await manager.wait("web", Until.RUNNING)
    await asyncio.sleep(0.1)
    container = await manager.containers.get("web")
    assert container.state in (ContainerState.RUNNING, ContainerState.FAILED)
    await check(manager.running)


async def test_it_can_be_deleted_while_it_is_created(manager: Manager) -> None:
    manager.lab.set(docker_s=30)
    container_id = await manager.create()
    await manager.until(lambda: manager.vmm_runs(container_id))
    with pytest.raises(InUse):
        await manager.containers.delete("web")
    began = time.monotonic()
    await manager.containers.delete("web", force=True)
    assert time.monotonic() - began < 5
    with pytest.raises(NotFound):
        await manager.containers.get("web")
    assert vmm_pids(manager.lab.storage) == []
    await check(manager.running)


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15])
async def test_it_can_be_deleted_at_any_moment(manager: Manager, delay: float) -> None:
    await manager.snapshot()
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
    await asyncio.sleep(0.3)
    await check(manager.running)
    assert vmm_pids(manager.lab.storage) == []


async def test_stop_delete_and_restart_at_once_leave_nothing(manager: Manager) -> None:
    await manager.run()
    began = time.monotonic()
    await asyncio.gather(
        manager.containers.stop("web", 1),
        manager.containers.restart("web", 1),
        manager.containers.delete("web", force=True),
        return_exceptions=True,
    )
    assert time.monotonic() - began < 5, "nobody waits for an exit that nobody watches any more"
    assert await manager.containers.list(all_states=True) == ()
    await check(manager.running)


async def test_a_delete_does_not_wait_for_a_stop(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "trap '' TERM; sleep 1000")
    stopping = asyncio.create_task(manager.containers.stop("web", 600))
    await asyncio.sleep(0.2)  # until the stop has it
    async with asyncio.timeout(10):
        await manager.containers.delete("web", force=True)
        await asyncio.gather(stopping, return_exceptions=True)
    assert await manager.containers.list(all_states=True) == ()


async def test_a_kill_ends_a_stop_that_waits(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "trap '' TERM; sleep 1000")
    stopping = asyncio.create_task(manager.containers.stop("web"))
    await asyncio.sleep(0.2)
    await manager.containers.kill("web", "SIGKILL")
    assert (await manager.containers.get("web")).exit_code == 137
    async with asyncio.timeout(5):
        await stopping
    with pytest.raises(Conflict, match="does not run"):
        await manager.containers.kill("web", "SIGTERM")


async def test_it_is_killed_when_its_own_time_is_over(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "trap '' USR1; sleep 1000", stop_timeout_s=0)
    await manager.containers.stop("web", signal="SIGUSR1")
    assert (await manager.containers.get("web")).exit_code == 137


async def test_stop_is_refused_while_it_is_created(manager: Manager) -> None:
    manager.lab.set(docker_s=0.5)
    await manager.create()
    with pytest.raises(Conflict, match="still being created"):
        await manager.containers.stop("web", 1)
    assert (await manager.wait("web", Until.RUNNING)).state is ContainerState.RUNNING


async def test_many_are_created_at_once(manager: Manager) -> None:
    await manager.snapshot()
    await asyncio.gather(*(manager.create(f"c{n}") for n in range(12)))
    containers = await asyncio.gather(*(manager.wait(f"c{n}", Until.RUNNING) for n in range(12)))
    assert {c.state for c in containers} == {ContainerState.RUNNING}
    assert {c.boot_method for c in containers} == {BootMethod.WARM}
    assert len({c.vm_id for c in containers}) == 12
    await check(manager.running)
    await asyncio.gather(*(manager.containers.delete(f"c{n}", force=True) for n in range(12)))
    await check(manager.running)


async def test_a_container_that_is_to_be_removed_is_when_it_has_ended(manager: Manager) -> None:
    container_id = await manager.create("web", "sh", "-c", "echo bye; exit 3", auto_remove=True)
    assert await manager.output("web", follow=True) == b"bye\n"
    ended = await manager.containers.wait(str(container_id), Until.EXITED, 5)
    assert ended.exit_code == 3

    async def gone() -> bool | None:
        return True if not await manager.containers.list(all_states=True) else None

    await manager.until(gone)
    await check(manager.running)
    late = await manager.containers.wait(str(container_id), Until.EXITED, 5)
    assert late.exit_code == 3


async def test_it_is_not_removed_before_its_output_was_read(manager: Manager) -> None:
    await manager.create("web", "sh", "-c", "echo one; echo two; exit 3", auto_remove=True)
    seen = []
    async for chunk in manager.containers.logs("web", follow=True):
        seen.append(chunk.data)
        await manager.wait("web", Until.EXITED)
        await asyncio.sleep(0.2)
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
    await asyncio.sleep(0.2)
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
    link = manager.host.link(str(container.vm_id))
    await link.docker.containers.container(str(container.docker_id)).delete(force=True)
    ended = await manager.wait("web", Until.EXITED)
    assert ended.state in (ContainerState.FAILED, ContainerState.EXITED)
    await check(manager.running)


async def test_events_tell_its_life_in_order(manager: Manager) -> None:
    await manager.snapshot()
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
    await asyncio.wait_for(reading, 5)
    assert seen.index("container.creating") < seen.index("container.booted")


async def test_a_wait_ends_when_its_time_is_over(manager: Manager) -> None:
    manager.lab.set(docker_s=30)
    await manager.create()
    container = await manager.containers.wait("web", Until.RUNNING, 0.1)
    assert container.state is ContainerState.CREATING
    with pytest.raises(WarmbootError):
        await manager.containers.wait("nobody", Until.RUNNING, 0.1)
    await manager.containers.delete("web", force=True)


async def _none_run(manager: Manager) -> bool | None:
    return None if vmm_pids(manager.lab.storage) else True


async def _nobody(manager: Manager) -> bool | None:
    return None if await manager.containers.list(all_states=True) else True


async def _stage(manager: Manager, container_id: object, stage: str) -> bool | None:
    events = await manager.events_of(container_id)
    return any(e.data.get("stage") == stage for e in events) or None
