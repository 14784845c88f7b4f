"""Containers and VMs in the store."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from tests.store.things import (
    NOON,
    a_container,
    a_vm,
    stored_container,
    stored_snapshot,
)

from warmboot.model.container import CONTAINER_TRANSITIONS, ContainerState, PortMapping
from warmboot.model.errors import Conflict, IllegalTransition, InvalidRequest, NameTaken, NotFound
from warmboot.model.shapes import Shape
from warmboot.model.tenants.boot import BootMethod, FallbackReason, StageTiming
from warmboot.model.vm import VmKind
from warmboot.store import Store

A = "aaaaaaaa-0000-4000-8000-00000000000{}"


async def test_a_container_comes_back_as_it_was(store: Store) -> None:
    snapshot = await stored_snapshot(store)
    container = await stored_container(
        store,
        state=ContainerState.EXITED,
        runtime_image_id=snapshot.runtime_image_id,
        runtime_snapshot_id=snapshot.id,
        vm_id="vm-1",
        docker_id="d" * 64,
        boot_method=BootMethod.COLD,
        fallback_reason=FallbackReason.RESTORE_FAILED,
        fallback_details="QEMU said so",
        stages=(StageTiming("restore", 0.01, 0.19), StageTiming("docker", 0.2, 0.37)),
        boot_s=0.57,
        ports=(PortMapping(80, 8080), PortMapping(53, 5353, "0.0.0.0", "udp")),
        exit_code=137,
        oom_killed=True,
        error={"code": "vm-gone", "brief": "gone"},
        started_at=NOON,
        finished_at=NOON + timedelta(microseconds=1),
    )
    assert await store.containers.get(container.id) == container


async def test_a_name_is_unique_until_its_container_is_removed(store: Store) -> None:
    first = await stored_container(store, "web")
    with pytest.raises(NameTaken, match="web"):
        await store.containers.add(a_container("web"))
    assert await store.containers.remove(first.id) is True
    assert await store.containers.remove(first.id) is False
    await store.containers.add(a_container("web"))


async def test_of_many_who_want_a_name_at_once_one_gets_it(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.containers.add(a_container("web")) for _ in range(8)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        *["NameTaken"] * 7,
        "NoneType",
    ]


async def test_a_container_of_an_unknown_image_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.containers.add(a_container(runtime_image_id=uuid4()))


async def test_text_that_no_database_can_hold_is_refused(store: Store) -> None:
    good = a_container()
    for text in ("a\0b", "\ud800"):
        spec = replace(good.spec, environment={"X": text})
        with pytest.raises(InvalidRequest, match="cannot be stored"):
            await store.containers.add(replace(good, spec=spec))
        with pytest.raises(InvalidRequest, match="cannot be stored"):
            await store.containers.add(replace(good, docker_id=text))


async def test_a_container_is_found_by_id_name_or_beginning(store: Store) -> None:
    one = await stored_container(store, "one", id=UUID(A.format(1)))
    two = await stored_container(store, "two", id=UUID("bbbbbbbb-0000-4000-8000-000000000002"))
    for reference in (str(one.id), one.id.hex, str(one.id).upper(), "one", "a", "aaaaaaaa-0"):
        assert await store.containers.find(reference) == one
    assert await store.containers.find("b") == two
    for reference in ("c", "on", "ONE", "", "a\0", "-", "\ud800", "%", "_", one.id.hex + "0"):
        with pytest.raises(NotFound):
            await store.containers.find(reference)


async def test_an_ambiguous_beginning_is_refused(store: Store) -> None:
    for n in range(4):
        await stored_container(store, id=UUID(A.format(n)))
    with pytest.raises(Conflict, match="begin with aaaa"):
        await store.containers.find("aaaa")
    assert (await store.containers.find(A.format(3))).id == UUID(A.format(3))


async def test_a_name_wins_over_the_beginning_of_ids(store: Store) -> None:
    for n in range(4):
        await stored_container(store, id=UUID(A.format(n)))
    named = await stored_container(store, "aa", id=UUID(int=2**128 - 1))
    assert await store.containers.find("aa") == named


async def test_containers_are_listed_newest_first_by_state(store: Store) -> None:
    old = await stored_container(store, state=ContainerState.EXITED)
    new = await stored_container(
        store, state=ContainerState.RUNNING, created_at=NOON + timedelta(seconds=1)
    )
    assert await store.containers.list() == (new, old)
    assert await store.containers.list([ContainerState.EXITED]) == (old,)
    assert await store.containers.list([]) == ()
    assert await store.containers.list(limit=1) == (new,)


@pytest.mark.parametrize("old", ContainerState)
@pytest.mark.parametrize("new", ContainerState)
async def test_states_change_as_the_model_allows(
    store: Store, old: ContainerState, new: ContainerState
) -> None:
    container = await stored_container(store, state=old)
    if CONTAINER_TRANSITIONS.allows(old, new):
        moved = await store.containers.set_state(container.id, new, exit_code=1)
        assert moved == replace(container, state=new, exit_code=1)
    else:
        with pytest.raises(IllegalTransition, match=f"{old} cannot become {new}"):
            await store.containers.set_state(container.id, new, exit_code=1)
        moved = container
    assert await store.containers.get(container.id) == moved


async def test_of_two_who_change_the_state_at_once_one_wins(store: Store) -> None:
    for _ in range(10):
        container = await stored_container(store, state=ContainerState.RUNNING)
        outcomes = await asyncio.gather(
            store.containers.set_state(container.id, ContainerState.EXITED, exit_code=0),
            store.containers.set_state(container.id, ContainerState.EXITED, exit_code=1),
            return_exceptions=True,
        )
        won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(won) == 1
        assert await store.containers.get(container.id) == won[0]


async def test_fields_change_without_the_state(store: Store) -> None:
    container = await stored_container(store)
    stages = (StageTiming("restore", 0.0, 0.25),)
    changed = await store.containers.update(
        container.id, vm_id="vm-1", stages=stages, shape=Shape(1, 512), error={"code": "x"}
    )
    assert changed == replace(
        container, vm_id="vm-1", stages=stages, shape=Shape(1, 512), error={"code": "x"}
    )
    cleared = await store.containers.update(container.id, vm_id=None, error=None)
    assert (cleared.vm_id, cleared.error) == (None, None)
    assert await store.containers.get(container.id) == cleared
    with pytest.raises(TypeError, match="state"):
        await store.containers.update(container.id, state=ContainerState.RUNNING)
    with pytest.raises(NotFound):
        await store.containers.update(uuid4(), vm_id="x")
    with pytest.raises(NotFound):
        await store.containers.set_state(uuid4(), ContainerState.RUNNING)


async def test_a_vm_comes_back_as_it_was(store: Store) -> None:
    vm, bare = a_vm(), a_vm(kind=VmKind.BUILDER, handle=None, slot=None)
    await store.vms.add(vm)
    await store.vms.add(bare)
    assert await store.vms.get(vm.id) == vm
    assert await store.vms.list(VmKind.BUILDER) == (bare,)
    assert {found.id for found in await store.vms.list()} == {vm.id, bare.id}


async def test_a_vm_gets_its_handle_when_it_was_started(store: Store) -> None:
    vm = a_vm()
    await store.vms.add(replace(vm, handle=None))
    assert await store.vms.update(vm.id, handle=vm.handle) == vm
    assert await store.vms.get(vm.id) == vm
    assert (await store.vms.update(vm.id, handle=None)).handle is None


async def test_a_vm_that_is_not_there_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.vms.get("vm-0")
    with pytest.raises(NotFound):
        await store.vms.update("vm-0", handle=None)
    with pytest.raises(NotFound):
        await store.vms.add(a_vm(snapshot_id=uuid4()))
    assert await store.vms.remove("vm-0") is False


async def test_a_vm_id_is_used_once(store: Store) -> None:
    vm = a_vm()
    await store.vms.add(vm)
    with pytest.raises(Conflict):
        await store.vms.add(vm)
    assert await store.vms.remove(vm.id) is True
    await store.vms.add(vm)
