"""``kill -9`` while an engine is created, stopped, started and removed.

As in ``test_killed_manager``: the next manager makes it good. The front is not killed with it, and
whoever is connected stays so.
"""

from __future__ import annotations

import pytest
from tests.faults.test_killed_manager import BOOT, Die, clear, die, names, place, reaper
from tests.support.absent import ABSENT
from tests.support.engines import docker, engines_of
from tests.support.invariants import check
from tests.support.managers import Lab, Manager, eventually, front_pids
from tests.support.prepared_labs import prepare

from warmboot.manager.protocols import EngineUntil
from warmboot.manager.tenants.fork_tenant import ForkTenant
from warmboot.manager.tenants.freeze_tenant import FreezeTenant
from warmboot.model.container import ContainerState
from warmboot.model.errors import NotFound
from warmboot.model.runtime_snapshot import RuntimeSnapshot, SnapshotState
from warmboot.model.tenants.engine import Engine, EngineState
from warmboot.model.vm import VmKind

__all__ = ["die", "place", "reaper"]

FORK = ForkTenant[Engine](VmKind.ENGINE, *[ABSENT] * 7)

CREATED = [
    *BOOT,
    ("engines", "update", "before"),
    ("engines", "update", "after"),
    ("engine-sockets", "show", "before"),
    ("engines", "set_state", "before"),  # its Docker answers at its socket, and nobody knows
    ("events", "append", "after", "engine.running"),
    ("host-vms", "hand_over", "before"),
    ("host-vms", "hand_over", "after"),
]
STOPPED = [
    ("host-vms", "destroy", "before"),
    ("host-vms", "destroy", "after"),
    ("events", "append", "before", "engine.stopped"),
    ("events", "append", "after", "engine.stopped"),
]
FROZEN = [
    *(("freeze-tenant", step.name) for step in FreezeTenant(*[ABSENT] * 5).saga.steps),
    ("vm", "pause", "after"),  # it stands still, and nobody is there to let it go on
    ("vm", "freeze", "after"),
    ("files", "publish_moment", "after"),
    ("snapshots", "update_metadata", "before"),
    ("events", "append", "after", "runtime-snapshot.ready"),
]
FORKED = [("fork-engine", step.name) for step in FORK.saga.steps]
REMOVED = [
    ("engine-sockets", "remove", "before"),  # it is committed that it is deleted
    ("engine-sockets", "remove", "after"),
    ("engines", "remove", "before"),
    ("engines", "remove", "after"),
]


@pytest.mark.parametrize("at", CREATED, ids=names)
async def test_killed_while_an_engine_comes_up(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("engine", at)
    async with place.manager() as manager:
        engine = await engines_of(manager).wait("victim", EngineUntil.RUNNING, 60)
        assert engine.state is EngineState.RUNNING, engine.error
        async with docker(engine) as client:
            assert (await client.get("/containers/json?all=1")).json() == []
            assert (await client.get("/images/json")).json() == []
        await clear_engines(manager, ready)


@pytest.mark.parametrize("at", STOPPED, ids=names)
async def test_killed_while_an_engine_is_stopped(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("engine", at)
    async with place.manager() as manager:
        found = await engines_of(manager).get("victim")
        assert found.state in (EngineState.FAILED, EngineState.STOPPED, EngineState.RUNNING)
        await engines_of(manager).start("victim")
        again = await engines_of(manager).wait("victim", EngineUntil.RUNNING, 60)
        assert again.state is EngineState.RUNNING, again.error
        await clear_engines(manager, ready)


@pytest.mark.parametrize(
    ("work", "at"), [*(("freeze", at) for at in FROZEN), *(("fork", at) for at in FORKED)], ids=str
)
async def test_killed_while_an_engine_is_frozen(
    place: Lab, die: Die, work: str, at: tuple[str, ...]
) -> None:
    """It runs on, and of what was not finished nothing is left."""
    ready = await prepare(place, snapshot=True)
    await die(work, at)
    async with place.manager() as manager:
        (engine,) = await engines_of(manager).list()
        assert (engine.name, engine.state) == ("victim", EngineState.RUNNING)
        async with docker(engine) as client:
            assert (await client.get("/containers/json?all=1")).json() == []
        snapshots = await manager.snapshots.list(include_deleted=True)
        assert [s.id for s in snapshots if s.is_version] == [s.id for s in ready]
        done = [s for s in snapshots if not s.is_version]
        if done:  # it was, but for the last word
            assert (work, [s.state for s in done]) == ("freeze", [SnapshotState.READY])
            await manager.snapshots.delete(done[0].id)
        # Nothing is left that would be in the way of the next one.
        made = await engines_of(manager).snapshot("victim", "seeded")
        await manager.snapshots.delete(made)
        await clear_engines(manager, ready)


@pytest.mark.parametrize("at", REMOVED, ids=names)
async def test_killed_while_an_engine_is_removed(place: Lab, die: Die, at: tuple[str, ...]) -> None:
    ready = await prepare(place, snapshot=True)
    await die("engine", at)
    async with place.manager() as manager:
        with pytest.raises(NotFound):
            await engines_of(manager).get("victim")
        await clear_engines(manager, ready)
    await eventually(lambda: no_front(place))


@pytest.mark.parametrize("at", [("fork-container", "forks"), ("vm", "freeze", "after")], ids=names)
async def test_killed_while_a_container_is_forked(
    place: Lab, die: Die, at: tuple[str, ...]
) -> None:
    """The rest of it is as of an engine."""
    ready = await prepare(place, snapshot=True)
    await die("fork_container", at)
    async with place.manager() as manager:
        (container,) = await manager.containers.list(all_states=True)
        assert (container.name, container.state) == ("victim", ContainerState.RUNNING)
        snapshots = await manager.snapshots.list(include_deleted=True)
        assert [s.id for s in snapshots] == [s.id for s in ready]
        (fork,) = await manager.containers.fork("victim", 1)
        assert await manager.output(fork.name) == b""
        await manager.containers.delete(fork.name, force=True)
        await clear_engines(manager, ready)


async def clear_engines(manager: Manager, ready: list[RuntimeSnapshot]) -> None:
    await check(manager.running, ready=ready)
    for engine in await engines_of(manager).list():
        await engines_of(manager).delete(str(engine.id), force=True)
    await clear(manager, ready)


async def no_front(place: Lab) -> bool:
    return front_pids(place.storage) == []
