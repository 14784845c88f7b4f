"""``kill -9`` of the manager at every journaled step and between; the next one makes it good.

Each test leaves a storage as a killed manager leaves it, starts another manager on it, and has the
invariants checked. The steps come from the sagas themselves, so a new step is covered by itself.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.faults.doomed import WORK_S, Doom
from tests.support.absent import ABSENT
from tests.support.invariants import check, settled
from tests.support.managers import Lab, Manager, lab, vmm_pids
from tests.support.prepared_labs import prepare

from warmboot.manager.core.saga import Saga
from warmboot.manager.protocols import Until
from warmboot.manager.snapshots.build_snapshot import BuildSnapshot
from warmboot.manager.vms.boot_vm import BootTimeouts, BootVm
from warmboot.model.container import Container, ContainerState
from warmboot.model.errors import InUse
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.boot import BootMethod, FallbackReason

REPOSITORY = Path(__file__).resolve().parents[2]


def points(saga: Saga[Any, Any]) -> list[tuple[str, str]]:
    return [(saga.kind, step.name) for step in saga.steps]


# What a saga's steps are does not depend on the parts that they will use.
BOOT = points(BootVm(ABSENT, ABSENT, ABSENT, ABSENT, BootTimeouts()).saga)
BUILD = points(BuildSnapshot(ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, 1.0).saga)

PROVISION = [
    ("operations", "set_state", "after"),  # the boot is done, and nothing of it noted
    ("containers", "update", "before"),
    ("containers", "update", "after"),
    ("snapshots", "record_success", "before"),
    ("snapshots", "record_success", "after"),
    ("host-vms", "publish", "before"),
    RAN := ("containers", "set_state", "before"),  # the container runs, and nobody knows
    ("events", "append", "before", "container.running"),
    ("bring-up", "_log_provisioned", "before"),  # it is committed
]
DELETE = [
    ("watch", "stop", "before"),  # it is committed that it is deleted
    ("host-vms", "destroy", "before"),
    ("host-vms", "destroy", "after"),
    ("vms", "remove", "after"),
    ("snapshots", "release", "before"),
    ("snapshots", "release", "after"),
    ("containers", "remove", "before"),
    ("containers", "remove", "after"),
]


Point = tuple[str, ...]


def also_with_vmms(points: Sequence[Point], since: str) -> pytest.MarkDecorator:
    """Each point, and those at which there is a VMM, from ``since`` on, with it killed, too."""
    first = next(number for number, point in enumerate(points) if since in point)
    cases = [pytest.param(at, False, id=names(at)) for at in points]
    cases += [pytest.param(at, True, id=f"{names(at)}-vmm-killed-too") for at in points[first:]]
    return pytest.mark.parametrize(("at", "vmms_too"), cases)


@pytest.fixture
async def place() -> AsyncIterator[Lab]:
    async with lab() as made:
        yield made


def names(point: tuple[str, ...]) -> str:
    return "-".join(point)


@pytest.fixture(scope="module")
async def reaper() -> AsyncIterator[asyncio.subprocess.Process]:
    """The process that forks managers which are to die."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.doomed"),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    yield process
    process.stdin.close()
    await asyncio.wait_for(process.wait(), 60)


class Die(Protocol):
    async def __call__(
        self, work: str, at: tuple[str, ...], *, vmms_too: bool = False, **settings: Any
    ) -> None: ...


@pytest.fixture
def die(place: Lab, reaper: asyncio.subprocess.Process) -> Die:
    """Run a manager until it kills itself; it must have come to that point."""

    async def run(
        work: str, at: tuple[str, ...], *, vmms_too: bool = False, **settings: Any
    ) -> None:
        doom = Doom(str(place.root), work, at, vmms_too, settings=settings)
        assert reaper.stdin is not None
        assert reaper.stdout is not None
        reaper.stdin.write(doom.to_json().encode() + b"\n")
        code = int(await asyncio.wait_for(reaper.stdout.readline(), WORK_S + 60))
        assert code == -signal.SIGKILL, f"it was to die at {at}, but ended with {code}"

    return run


async def run_victim(place: Lab) -> Container:
    async with place.manager() as manager:
        return await manager.run("victim")


async def victim_runs(manager: Manager) -> Container:
    """It was begun, so it is finished: it runs, and obeys."""
    container = await manager.wait("victim", Until.RUNNING)
    assert container.state is ContainerState.RUNNING, container.error
    assert container.boot_method is not None
    await manager.containers.stop("victim", 0)
    assert (await manager.containers.get("victim")).state is ContainerState.EXITED
    return container


async def clear(manager: Manager, ready: list[RuntimeSnapshot]) -> None:
    """Everything holds; then all is deleted, and everything holds again, with nothing left."""
    await check(manager.running, ready=ready)
    for container in await manager.containers.list(all_states=True):
        await manager.containers.delete(str(container.id), force=True)
    for snapshot in await manager.snapshots.list():
        await manager.snapshots.delete(snapshot.id)
    await check(manager.running)
    assert vmm_pids(manager.lab.storage) == []
    assert list(manager.host.vms.root.iterdir()) == []
    folders = [p for image in manager.host.snapshots.root.iterdir() for p in image.iterdir()]
    assert folders == []


@also_with_vmms(BOOT, since="identity")
@pytest.mark.parametrize("work", ["warm", "cold"])
async def test_killed_while_it_boots(
    place: Lab, die: Die, work: str, at: tuple[str, str], vmms_too: bool
) -> None:
    ready = await prepare(place, snapshot=work == "warm")
    await die(work, at, vmms_too=vmms_too)
    async with place.manager() as manager:
        container = await manager.wait("victim", Until.RUNNING)
        await check(manager.running, ready=ready)
        assert container.boot_method == work
        await victim_runs(manager)
        await clear(manager, ready)


@pytest.mark.parametrize("vmms_too", [False, True], ids=["", "vmm-killed-too"])
@pytest.mark.parametrize("at", PROVISION, ids=names)
async def test_killed_while_it_provisions(
    place: Lab, die: Die, at: tuple[str, ...], vmms_too: bool
) -> None:
    ready = await prepare(place, snapshot=True)
    await die("warm", at, vmms_too=vmms_too)
    async with place.manager() as manager:
        await settled(manager.running)
        container = await manager.containers.get("victim")
        if vmms_too and container.state is ContainerState.FAILED:
            assert container.error is not None  # it had been running, and its VM died
            await manager.containers.start("victim")
            container = await manager.wait("victim", Until.RUNNING)
            assert container.fallback_reason is FallbackReason.KEEPS_DISK
        else:
            assert container.boot_method is BootMethod.WARM
        await check(manager.running, ready=ready)
        await victim_runs(manager)
        await clear(manager, ready)


@pytest.mark.parametrize("at", PROVISION[PROVISION.index(RAN) :], ids=names)
async def test_a_command_that_ran_is_not_run_again(
    place: Lab, die: Die, at: tuple[str, ...]
) -> None:
    ready = await prepare(place, snapshot=True)
    await die("short", at)
    async with place.manager() as manager:
        container = await manager.wait("victim", Until.EXITED)
        assert container.state is ContainerState.EXITED
        assert container.exit_code == 0
        assert await manager.output("victim") == b"once\n"
        await clear(manager, ready)


# What becomes of a VM that has died, and what of the old snapshot, are decided apart.
@also_with_vmms(BUILD, since="identity")
async def test_killed_while_it_builds(
    place: Lab, die: Die, at: tuple[str, str], vmms_too: bool
) -> None:
    await prepare(place)
    await die("build", at, vmms_too=vmms_too)
    await is_built(place, [])


@pytest.mark.parametrize("at", BUILD, ids=names)
async def test_killed_while_it_rebuilds(place: Lab, die: Die, at: tuple[str, str]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("rebuild", at)
    await is_built(place, ready)


async def is_built(place: Lab, ready: list[RuntimeSnapshot]) -> None:
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        states = [s.state for s in await manager.snapshots.list(include_deleted=True)]
        assert states == [SnapshotState.READY], "what was begun is finished, the old one is gone"
        container = await manager.run("proof")
        assert container.boot_method is BootMethod.WARM
        await clear(manager, ready)


@pytest.mark.parametrize(
    "at",
    [
        ("snapshots", "update_metadata", "before"),
        ("snapshots", "swap", "before"),
        ("snapshots", "swap", "after"),
        ("files", "publish", "after"),
        ("files", "discard", "before"),
        ("files", "discard", "after"),
        ("snapshots", "purge", "after"),
    ],
    ids=names,
)
async def test_killed_while_it_swaps(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("rebuild", at)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        states = [s.state for s in await manager.snapshots.list(include_deleted=True)]
        assert states == [SnapshotState.READY]
        await clear(manager, ready)


@pytest.mark.parametrize(
    ("at", "vmms_too"),
    [
        *((at, False) for at in DELETE),
        *((at, True) for at in DELETE[:2]),
    ],  # there is one until then
    ids=[*map(names, DELETE), *(f"{names(at)}-vmm-killed-too" for at in DELETE[:2])],
)
async def test_killed_while_it_deletes(
    place: Lab, die: Die, at: tuple[str, ...], vmms_too: bool
) -> None:
    ready = await prepare(place, snapshot=True)
    await run_victim(place)
    await die("delete", at, vmms_too=vmms_too)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        assert await manager.containers.list(all_states=True) == ()
        await clear(manager, ready)


@pytest.mark.parametrize(
    "at",
    [
        ("snapshots", "set_state", "after"),
        ("files", "discard", "before"),
        ("files", "discard", "after"),
        ("snapshots", "purge", "before"),
        ("snapshots", "purge", "after"),
    ],
    ids=names,
)
async def test_killed_while_it_deletes_a_snapshot(
    place: Lab, die: Die, at: tuple[str, ...]
) -> None:
    await prepare(place, snapshot=True)
    await die("delete_snapshot", at)
    async with place.manager() as manager:
        await check(manager.running)
        assert await manager.snapshots.list(include_deleted=True) == ()
        await clear(manager, [])


@also_with_vmms(BOOT, since="identity")
async def test_killed_while_it_starts_on_its_own_disk(
    place: Lab, die: Die, at: tuple[str, str], vmms_too: bool
) -> None:
    """The disk of a container that has run is never lost, and neither is the lease under it."""
    ready = await prepare(place, snapshot=True)
    container = await run_victim(place)
    place.kill_everything()
    async with place.manager() as manager:
        assert (await manager.containers.get("victim")).state is ContainerState.FAILED
    disk = place.storage / "vms" / str(container.vm_id) / "disk.ext4"
    disk.write_bytes(b"precious")
    await die("start", at, vmms_too=vmms_too)
    async with place.manager() as manager:
        await manager.wait("victim", Until.RUNNING)
        await check(manager.running, ready=ready)
        again = await victim_runs(manager)
        assert again.fallback_reason is FallbackReason.KEEPS_DISK
        assert disk.read_bytes() == b"precious"
        await clear(manager, ready)


START = [
    ("guest", "start", "before"),
    ("guest", "start", "after"),  # it runs, and nobody has written that down
    ("containers", "set_state", "before"),
    ("events", "append", "before", "container.running"),
]


@pytest.mark.parametrize("vmms_too", [False, True], ids=["", "vmm-killed-too"])
@pytest.mark.parametrize("at", START, ids=names)
async def test_killed_while_it_starts_again_in_its_vm(
    place: Lab, die: Die, at: tuple[str, ...], vmms_too: bool
) -> None:
    """What runs is said to run, and is watched; what does not is not."""
    ready = await prepare(place, snapshot=True)
    async with place.manager() as manager:
        container = await manager.run("victim")
        await manager.containers.stop("victim", 0)
    await die("start", at, vmms_too=vmms_too)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        again = await manager.containers.get("victim")
        if not vmms_too:
            runs = at != ("guest", "start", "before")
            assert again.state is (ContainerState.RUNNING if runs else ContainerState.EXITED)
            assert again.vm_id == container.vm_id
        if again.state is not ContainerState.RUNNING:
            await manager.containers.start("victim")
        else:
            with pytest.raises(InUse):
                await manager.containers.delete("victim")
        await victim_runs(manager)
        await clear(manager, ready)


UNDO = [
    ("operations", "set_state", "before"),
    ("operations", "set_state", "after"),
    ("host-vms", "destroy", "before"),
    ("host-vms", "destroy", "after"),
    ("vms", "remove", "after"),
]


@pytest.mark.parametrize("at", UNDO, ids=names)
@pytest.mark.parametrize("work", ["warm", "build"])
async def test_killed_again_while_it_undoes(
    place: Lab, die: Die, work: str, at: tuple[str, ...]
) -> None:
    ready = await prepare(place, snapshot=work == "warm")
    await die(work, ("boot-vm" if work == "warm" else "build-snapshot", "docker"))
    await die("go_on", at)
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        if work == "warm":
            await victim_runs(manager)
        await clear(manager, ready)


async def test_killed_twice_while_it_boots(place: Lab, die: Die) -> None:
    ready = await prepare(place, snapshot=True)
    await die("warm", ("boot-vm", "identity"))
    await die("go_on", ("boot-vm", "docker"))
    async with place.manager() as manager:
        await check(manager.running, ready=ready)
        await victim_runs(manager)
        await clear(manager, ready)
