"""Containers that cannot be had: what is refused, what does not boot, and a VM that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from uuid import uuid4

import pytest
from tests.support.archives import archived
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, vmm_pids

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState, PortMapping
from warmboot.model.errors import (
    ImageNotFound,
    InvalidRequest,
    NameTaken,
    NotFound,
    NotSupported,
)
from warmboot.model.runtime_snapshot import RuntimeSnapshot
from warmboot.model.shapes import Capacity, Shape
from warmboot.model.tenants.boot import BootMethod, FallbackReason


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
    with pytest.raises(InvalidRequest, match="are not available on this host") as refused:
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


async def test_an_archive_that_was_damaged_since_is_refused_before_a_vm_is_booted(
    manager: Manager,
) -> None:
    archive = await archived(manager, "a:1")
    (manager.host.storage.root / "archives" / archive).write_bytes(b"no archive")
    with pytest.raises(InvalidRequest, match="not an image archive"):
        await manager.create("web", image="a:1", archive=archive)
    assert vmm_pids(manager.lab.storage) == []


async def test_an_image_that_an_archive_has_not_is_refused_before_a_vm_is_booted(
    manager: Manager,
) -> None:
    archive = await archived(manager, "a:1", "b:1")
    for image, refusal in (("c:1", ImageNotFound), ("a:1@sha256:" + "0" * 64, InvalidRequest)):
        with pytest.raises(refusal):
            await manager.create("web", image=image, archive=archive)
    assert vmm_pids(manager.lab.storage) == []
    assert await manager.containers.list(all_states=True) == ()
    assert (await manager.run("web", image="b:1", archive=archive)).error is None


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
    snapshot: RuntimeSnapshot, manager: Manager, image: str, code: str
) -> None:
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
    silence_s = 60.0 if registry == "failing" else 0.4  # that one answers, however late
    async with place.manager(pull_silence_s=silence_s) as manager:
        container = await manager.run(image=f"{registry}.invalid/app")
        assert container.error is not None
        assert container.error["code"] == "registry-unavailable"
        assert says in container.error["details"]
        assert vmm_pids(place.storage) == []


async def test_a_pull_that_gets_on_slowly_is_not_cut_off(place: Lab) -> None:
    place.set(pull_s=0.3)  # nine times in all, and a busy machine may be late
    async with place.manager(pull_silence_s=2.5) as manager:
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


async def test_a_killed_vm_fails_its_container_and_says_so(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    container = await manager.run()
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    failed = await manager.wait("web", Until.EXITED)
    assert failed.state is ContainerState.FAILED
    assert failed.error is not None
    assert "died" in failed.error["brief"]
    assert "warmboot start web" in failed.error["resolution"]
    assert (manager.host.vms.root / str(container.vm_id) / "disk.ext4").exists()
    # Its disk is made from the snapshot's.
    assert await manager.store.snapshots.leases(snapshot.id) == (str(container.id),)


async def test_a_failed_container_starts_again_on_its_disk(manager: Manager) -> None:
    container = await manager.run()
    disk = manager.host.vms.root / str(container.vm_id) / "disk.ext4"
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


async def test_a_start_that_fails_does_not_cost_the_disk(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    container = await manager.run()
    disk = manager.host.vms.root / str(container.vm_id) / "disk.ext4"
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
    snapshot: RuntimeSnapshot, manager: Manager, delay: float
) -> None:
    container_id = await manager.create()

    async def there() -> bool | None:
        return True if await manager.store.vms.of_owner(container_id) else None

    await manager.until(there)
    await asyncio.sleep(delay)
    manager.lab.kill_everything()
    await manager.wait("web", Until.RUNNING)
    await asyncio.sleep(0.1)  # its VM may die just after it ran
    container = await manager.containers.get("web")
    assert container.state in (ContainerState.RUNNING, ContainerState.FAILED)
    await check(manager.running)


async def _none_run(manager: Manager) -> bool | None:
    return None if vmm_pids(manager.lab.storage) else True


async def _stage(manager: Manager, container_id: object, stage: str) -> bool | None:
    events = await manager.events_of(container_id)
    return any(e.data.get("stage") == stage for e in events) or None
