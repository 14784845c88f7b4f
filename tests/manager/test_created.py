"""Containers that are created and started later: what they hold meanwhile, and how they start."""

from __future__ import annotations

import os
import signal

import pytest
from tests.support.managers import Lab, Manager

from warmboot.manager.protocols import Until
from warmboot.model.container import ContainerState
from warmboot.model.errors import Conflict, InUse, NameTaken
from warmboot.model.runtime_snapshot import RuntimeSnapshot


async def test_it_is_there_and_holds_nothing_of_the_host_until_it_is_started(
    snapshot: RuntimeSnapshot, manager: Manager
) -> None:
    container_id = await manager.create("web", "echo", "up", start=False)
    created = await manager.containers.get("web")
    assert (created.state, created.vm_id, created.started_at) == (
        ContainerState.CREATED, None, None,
    )  # fmt: skip
    assert not await manager.store.vms.of_owner(container_id)
    assert await manager.containers.list() == ()
    assert [one.id for one in await manager.containers.list(all_states=True)] == [container_id]
    with pytest.raises(NameTaken):
        await manager.create(start=False)
    with pytest.raises(InUse):  # its runtime image is kept for it
        await manager.services.images.delete(snapshot.runtime_image_id)
    with pytest.raises(Conflict, match="web has not been started yet"):
        await manager.output("web")
    await manager.containers.stop("web")

    await manager.containers.start("web")
    ended = await manager.wait("web", Until.EXITED)
    assert (ended.id, ended.exit_code, ended.boot_method) == (container_id, 0, "warm")
    assert await manager.output("web") == b"up\n"
    kinds = [event.kind for event in await manager.events_of(container_id)]
    assert kinds[:2] == ["container.created", "container.creating"]


async def test_it_is_removed_without_force(manager: Manager) -> None:
    await manager.create(start=False)
    await manager.containers.delete("web")
    assert await manager.containers.list(all_states=True) == ()


async def test_it_outlives_its_manager(place: Lab) -> None:
    async with place.manager() as first:
        container_id = await first.create("web", "echo", "up", start=False)
    async with place.manager() as second:
        assert (await second.containers.get("web")).state is ContainerState.CREATED
        await second.containers.start("web")
        assert (await second.wait("web", Until.EXITED)).id == container_id
        await second.containers.delete("web")


@pytest.mark.parametrize("ended_before", [False, True], ids=["created", "exited"])
async def test_who_starts_it_and_stays_misses_nothing(
    manager: Manager, *, ended_before: bool
) -> None:
    command = ("sh", "-c", "echo begin; exit 3")
    await manager.create("web", *command, start=False)
    if ended_before:
        await manager.containers.start("web")
        await manager.wait("web", Until.EXITED)
    session = await manager.containers.attach("web", logs=False, start=True)
    try:
        assert b"".join([chunk.data async for chunk in session]) == b"begin\n"
        assert await session.exit_code() == 3
    finally:
        await session.close()


async def test_of_one_whose_vm_has_died_a_stay_boots_it_again(manager: Manager) -> None:
    await manager.run("web", "sh", "-c", "echo begin; sleep 60")
    os.kill(await manager.vm_pid("web"), signal.SIGKILL)
    await manager.wait("web", Until.EXITED)
    assert (await manager.containers.get("web")).state is ContainerState.FAILED
    session = await manager.containers.attach("web", logs=False, start=True)
    try:
        first = await anext(aiter(session))
        assert first.data == b"begin\n"
    finally:
        await session.close()
